from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.decisions import (
    DUPLICATE,
    INDEX_COLUMNS,
    KNOWN,
    NEAR_DUPLICATE,
    TRAIN,
    VALIDATION,
    Decisions,
    Index,
    decide,
    exact_duplicates,
)
from mulm.data.recipe import SplitRule
from mulm.errors import CorruptError, DataError

Documents = Callable[..., pa.Table]

few = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=30)


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def index_of(
    digests: list[int], rejected: list[bool] | None = None, groups: list[int] | None = None
) -> Index:
    """Documents by their digests, without texts."""
    n = len(digests)
    reasons = ["too_short" if bad else "" for bad in rejected or [False] * n]
    return Index(
        np.frombuffer(b"".join(map(key, digests)), "V16"),
        np.frombuffer(b"".join(map(key, groups or digests)), "V16"),
        np.full(n, 10, np.int64),
        reasons,
        None,
    )


def decided(index: Index, split: SplitRule, known: list[int] | None = None) -> Decisions:
    digests = np.frombuffer(b"".join(map(key, known)), "V16") if known else None
    original, is_known = exact_duplicates(index, digests)
    return decide(index, split, original, np.zeros(len(index), np.bool_), is_known)


def names_of(decisions: Decisions) -> list[str]:
    return [decisions.names[code] for code in decisions.codes]


@given(few, st.sets(st.integers(0, 6)))
def test_first_stays_and_a_reject_is_no_original(
    rows: list[tuple[int, bool]], known: set[int]
) -> None:
    digests, rejected = [d for d, _ in rows], [bad for _, bad in rows]
    seen: dict[int, int] = {}
    expected = [
        -1 if bad or seen.setdefault(d, row) == row else seen[d]
        for row, (d, bad) in enumerate(rows)
    ]
    known_digests = np.frombuffer(b"".join(map(key, sorted(known))), "V16")
    original, is_known = exact_duplicates(index_of(digests, rejected), known_digests)
    assert original.tolist() == expected
    assert is_known.tolist() == [d in known and not bad for d, bad in rows]


def test_what_becomes_of_each() -> None:
    index = index_of(
        [1, 2, 1, 3, 4, 5, 6, 2], [False, True, False, False, False, False, False, False]
    )
    original = np.array([-1, -1, 0, -1, 3, -1, -1, -1])
    is_near = np.array([0, 0, 0, 0, 1, 0, 0, 0], np.bool_)
    is_known = np.array([0, 0, 0, 0, 0, 1, 0, 0], np.bool_)
    decisions = decide(index, SplitRule(), original, is_near, is_known)
    names = names_of(decisions)
    assert names[1:3] == ["too_short", DUPLICATE]
    assert names[4:6] == [NEAR_DUPLICATE, KNOWN]
    assert {names[row] for row in (0, 3, 6, 7)} == {TRAIN, VALIDATION}
    assert decisions.names == (TRAIN, VALIDATION, *sorted(decisions.names[2:]))
    assert decisions.originals == {2: 0, 4: 3}
    assert sum(decisions.counts().values()) == 8
    assert decisions.counts()[DUPLICATE] == 1
    assert decisions.are("never heard of").tolist() == [False] * 8
    assert np.flatnonzero(decisions.are(KNOWN)).tolist() == [5]
    assert (
        decisions.are_kept.tolist() == (decisions.are(TRAIN) | decisions.are(VALIDATION)).tolist()
    )
    assert decisions.part(4, 6).codes.tolist() == decisions.codes[4:6].tolist()


@given(st.lists(st.integers(0, 40), min_size=2, max_size=60))
def test_no_text_is_on_both_sides(digests: list[int]) -> None:
    if len(set(digests)) < 2:
        return
    decisions = decided(index_of(digests), SplitRule(validation_fraction=0.3))
    train = {d for d, is_on in zip(digests, decisions.are(TRAIN), strict=True) if is_on}
    held_out = {d for d, is_on in zip(digests, decisions.are(VALIDATION), strict=True) if is_on}
    assert train
    assert held_out
    assert not train & held_out
    assert train | held_out == set(digests)


def test_a_group_stays_together() -> None:
    groups = [n // 5 for n in range(100)]
    decisions = decided(
        index_of(list(range(100)), groups=groups), SplitRule(by="file", validation_fraction=0.25)
    )
    by_group = decisions.are(VALIDATION).reshape(20, 5)
    assert (by_group.all(axis=1) | ~by_group.any(axis=1)).all()
    assert 1 <= by_group.all(axis=1).sum() < 20


def test_added_documents_move_no_other() -> None:
    before = decided(index_of(list(range(300))), SplitRule(validation_fraction=0.2))
    more = [*range(1000, 1100), *range(300), *range(50)]
    after = decided(index_of(more), SplitRule(validation_fraction=0.2))
    assert names_of(after)[100:400] == names_of(before)
    other = decided(index_of(list(range(300))), SplitRule(validation_fraction=0.2, salt="b"))
    assert names_of(other) != names_of(before)


def test_one_text_cannot_be_split() -> None:
    with pytest.raises(DataError, match="smaller than one validation document"):
        decided(index_of([7, 7, 7]), SplitRule())


def test_all_rejected_is_for_the_caller_to_tell() -> None:
    decisions = decided(index_of([1, 2], [True, True]), SplitRule())
    assert decisions.counts() == {"too_short": 2}


@given(
    st.lists(st.integers(0, 3), max_size=20),
    st.dictionaries(st.integers(0, 2**40), st.integers(0, 2**40), max_size=5),
)
def test_bytes_round_trip(codes: list[int], originals: dict[int, int]) -> None:
    decisions = Decisions(("train", "validation", "é", ""), np.array(codes, np.uint8), originals)
    again = Decisions.from_bytes(decisions.to_bytes())
    assert again.names == decisions.names
    assert again.codes.tolist() == codes
    assert again.originals == originals
    assert again.to_bytes() == decisions.to_bytes()


def test_layout_is_frozen() -> None:
    content = Decisions(("train", "validation"), np.array([0, 1, 0], np.uint8), {2: 1}).to_bytes()
    assert content == (
        b'{"n":3,"n_originals":1,"names":["train","validation"]}\n'
        b"\0\1\0" + (2).to_bytes(8, "little") + (1).to_bytes(8, "little")
    )


GOOD = Decisions(("train", "validation"), np.array([0, 1, 0], np.uint8), {2: 1}).to_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"{}\n", b"[]\n", b"7\n", GOOD[:-1], GOOD + b"\0", GOOD[:-17],
        GOOD.replace(b'"n":3', b'"n":-1'), GOOD.replace(b'"n":3', b'"n":null'),
        GOOD.replace(b'"n":3', b'"n":2'), GOOD.replace(b'"n_originals":1', b'"n_originals":-1'),
        GOOD.replace(b'"names"', b'"other"'), GOOD.replace(b'["train","validation"]', b"7"),
        GOOD.replace(b',"validation"', b""), GOOD.replace(b'"train",', b"[],"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_corrupt(content: bytes) -> None:
    with pytest.raises(CorruptError, match=r"decisions\.bin") as caught:
        Decisions.from_bytes(content)
    assert caught.value.hint


def test_index_reads_the_columns_of_chunks(documents: Documents) -> None:
    bands = [bytes(range(16)), bytes(16), bytes(16)]
    first = documents(["a", "b", "cé"], bands=bands, reason=["", "empty", ""])
    second = documents(["d"], bands=[bytes(16)])
    whole = pa.concat_tables([first[1:], second, first[:0]])
    index = Index.of([first[:1].select(INDEX_COLUMNS), whole.select(INDEX_COLUMNS)])
    assert len(index) == 4
    expected = [*first["digest"].to_pylist(), *second["digest"].to_pylist()]
    assert [value.tobytes() for value in index.digests] == expected
    assert [value.tobytes() for value in index.groups] == expected
    assert index.size_bytes.tolist() == [1, 1, 3, 1]
    assert index.reasons == ["", "empty", "", ""]
    assert index.bands is not None
    assert index.bands.shape == (4, 2)
    assert index.bands[0].tolist() == [0x0706050403020100, 0x0F0E0D0C0B0A0908]
    assert Index.of([documents(["a"])]).bands is None
