from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.pack import best_fit, pack_rows
from mulm.data.tokens import Tokens

END = 0


def reference(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Longest first; each into the fullest bin with room, the one that got so last if several."""
    bins: list[list[int]] = []
    room: list[int] = []
    changed: list[int] = []
    for clock, item in enumerate(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))):
        fitting = [place for place, left in enumerate(room) if left >= lengths[item]]
        if not fitting:
            bins.append([])
            room.append(capacity)
            changed.append(clock)
            fitting = [len(bins) - 1]
        chosen = min(fitting, key=lambda place: (room[place], -changed[place]))
        bins[chosen].append(item)
        room[chosen] -= lengths[item]
        changed[chosen] = clock
    return bins


def document(n_tokens: int, first_id: int = 1) -> Tokens:
    """The end of text, then different ids."""
    ids = np.arange(first_id - 1, first_id - 1 + n_tokens, dtype=np.uint32)
    ids[0] = END
    return Tokens.all_learned(ids)


@given(st.integers(1, 40).flatmap(lambda c: st.tuples(st.lists(st.integers(1, c)), st.just(c))))
def test_best_fit_is_the_plain_search_for_the_fullest_bin(given: tuple[list[int], int]) -> None:
    lengths, capacity = given
    assert best_fit(lengths, capacity) == reference(lengths, capacity)


@given(st.lists(st.integers(1, 70), max_size=30), st.integers(8, 24))
def test_each_token_is_learned_once(lengths: list[int], row_len: int) -> None:
    starts = np.cumsum([0, *lengths])
    documents = [document(n, int(first) + 1) for n, first in zip(lengths, starts, strict=False)]
    packed = pack_rows(documents, row_len, END)
    assert len(packed) % row_len == 0
    is_text = packed.ids != END
    learned = packed.ids[packed.learned & is_text].tolist()
    assert sorted(learned) == sorted(i for d in documents for i in d.ids.tolist() if i != END)
    for row in range(0, len(packed), row_len):
        assert packed.ids[row] == END, "each row begins with a border"


@given(st.lists(st.integers(2, 70), min_size=1, max_size=30), st.integers(8, 24))
def test_a_border_before_each_piece_and_only_one_end_learned(
    lengths: list[int], row_len: int
) -> None:
    documents = [document(n, 1000 * (k + 1)) for k, n in enumerate(lengths)]
    packed = pack_rows(documents, row_len, END)
    whose = packed.ids // 1000
    for row in range(0, len(packed), row_len):
        own = slice(row, row + row_len)
        for before, here in zip(whose[own][:-1], whose[own][1:], strict=True):
            assert here in (0, before) or before == 0, "no border between two documents"
        filler = _trailing(packed.ids[own])
        assert packed.learned[own][row_len - filler :].tolist() == [True, *[False] * 99][:filler]


def test_masked_tokens_stay_masked_and_later_pieces_begin_unlearned() -> None:
    ids = np.array([END, *range(1, 20)], np.uint32)
    packed = pack_rows([Tokens(ids, ids % 2 == 0)], 8, END)
    assert packed.ids.reshape(-1, 8).tolist() == [
        [END, 1, 2, 3, 4, 5, 6, 7],
        [END, 8, 9, 10, 11, 12, 13, 14],
        [END, 15, 16, 17, 18, 19, END, END],
    ]
    assert packed.learned.reshape(-1, 8).astype(int).tolist() == [
        [1, 0, 1, 0, 1, 0, 1, 0],
        [0, 1, 0, 1, 0, 1, 0, 1],
        [0, 0, 1, 0, 1, 0, 1, 0],
    ]


def test_little_is_wasted() -> None:
    rng = random.Random(0)
    lengths = [min(2049, int(rng.lognormvariate(6, 1)) + 2) for _ in range(2000)]
    packed = pack_rows([document(n) for n in lengths], 513, END)
    assert sum(lengths) <= len(packed) < 1.02 * sum(lengths)


def test_nothing_to_pack() -> None:
    assert len(pack_rows([], 9, END)) == 0
    assert best_fit([], 9) == []


def _trailing(ids: np.ndarray) -> int:
    """The tokens that fill a row up."""
    n = 0
    while n < len(ids) and ids[-1 - n] == END:
        n += 1
    return n
