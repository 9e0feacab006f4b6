from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mulm.data.near_pairs as near_pairs
from mulm.data.near import band_hashes, shingle_sets
from mulm.data.near_pairs import is_similar, near_duplicates
from mulm.data.rules import NearRules
from mulm.data.texts import Hashes

RULES = NearRules(min_similarity=0.7, ngram=1)
ALPHABETS = st.lists(
    st.lists(st.sampled_from("abcdefghij"), max_size=12).map(" ".join), max_size=16
)


def found(texts: Sequence[str], n_known: int = 0, rules: NearRules = RULES) -> list[int]:
    def shingles_of(rows: Sequence[int]) -> list[Hashes]:
        return shingle_sets([texts[row] for row in rows], rules)

    bands = band_hashes(texts, rules)
    sizes = np.array([len(text) for text in texts], np.int64)
    return near_duplicates(bands, sizes, shingles_of, rules.min_similarity, n_known).tolist()


def plain(texts: Sequence[str], n_known: int) -> list[int]:
    """One document after the other, against all originals that share a band with it."""
    bands, sets = band_hashes(texts, RULES), [set(text.split()) for text in texts]
    result, originals = [], []
    for row, own in enumerate(sets):
        shared = {other: int((bands[row] == bands[other]).sum()) for other in originals}
        ranked = sorted((other for other in shared if shared[other]), key=lambda o: (-shared[o], o))
        similar = [o for o in ranked if len(own & sets[o]) >= 0.7 * len(own | sets[o])]
        repeats = bool(own and similar and row >= n_known)
        result.append(similar[0] if repeats else -1)
        if own and not repeats:
            originals.append(row)
    return result


@settings(max_examples=25)
@given(ALPHABETS, st.integers(0, 3))
def test_equal_to_the_plain_way(texts: list[str], n_known: int) -> None:
    n_known = min(n_known, len(texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_pairs, "MAX_COMPARED", 1000)
        assert found(texts, n_known) == plain(texts, n_known)


@settings(max_examples=25)
@given(ALPHABETS, st.integers(1, 200))
def test_blocks_change_nothing(texts: list[str], asked_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_pairs, "MAX_COMPARED", 2)
        patch.setattr(near_pairs, "MAX_BUCKET", 3)
        whole = found(texts)
        patch.setattr(near_pairs, "_ASKED_BYTES", asked_bytes)
        assert found(texts) == whole


def test_long_texts_are_asked_for_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{n // 2} " + " ".join(f"w{n // 2}x{k}" for k in range(30)) for n in range(40)]
    bands, asked = band_hashes(texts, RULES), []
    sizes = np.full(40, 1000)

    def shingles_of(rows: Sequence[int]) -> list[Hashes]:
        asked.append(list(rows))
        return shingle_sets([texts[row] for row in rows], RULES)

    monkeypatch.setattr(near_pairs, "_ASKED_BYTES", 5000)
    originals = near_duplicates(bands, sizes, shingles_of, RULES.min_similarity)
    assert originals.tolist() == [-1 if n % 2 == 0 else n - 1 for n in range(40)]
    assert all(rows == sorted(set(rows)) for rows in asked)
    assert max(map(len, asked)) <= 6


def test_a_dropped_document_is_no_original() -> None:
    first = " ".join(f"w{n}" for n in range(100))
    second = " ".join(f"w{n}" for n in range(15, 115))  # 0.74 of the first
    third = " ".join(f"w{n}" for n in range(30, 130))  # 0.74 of the second, 0.54 of the first
    assert found([first, second, third]) == [-1, 0, -1]
    assert found([first, second, third], n_known=2) == [-1, -1, 1]


def test_texts_without_ngrams_repeat_nothing() -> None:
    assert found(["", "", "a b", "a b"], rules=NearRules(ngram=5)) == [-1] * 4
    assert found([]) == []


def test_planted_copies_are_found() -> None:
    generator = np.random.default_rng(7)
    vocabulary = np.array([f"word{n}" for n in range(3000)])
    rules = NearRules(min_similarity=0.8, ngram=5)
    texts = [" ".join(generator.choice(vocabulary, 400)) for _ in range(150)]
    for original in range(100):
        words = texts[original].split()
        for place in generator.choice(400, generator.integers(1, 16), replace=False):
            words[place] = "changed"
        texts.append(" ".join(words))
    sets = [set(own.tolist()) for own in shingle_sets(texts, rules)]
    truth = {
        150 + row
        for row in range(100)
        if len(sets[row] & sets[150 + row]) >= 0.8 * len(sets[row] | sets[150 + row])
    }
    dropped = {row for row, original in enumerate(found(texts, rules=rules)) if original >= 0}
    assert len(truth) > 30
    assert dropped <= truth
    assert len(dropped) >= 0.96 * len(truth)


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.floats(0.1, 1))
def test_similarity_is_exact(a: set[int], b: set[int], bound: float) -> None:
    left, right = (np.array(sorted(own), dtype=np.uint64) for own in (a, b))
    assert is_similar(left, right, bound) == (len(a & b) >= bound * len(a | b))


def test_copies_in_scripts_without_spaces_are_found() -> None:
    generator = np.random.default_rng(3)
    text = "".join(map(chr, generator.integers(0x4E00, 0x4F00, 500)))
    other = "".join(map(chr, generator.integers(0x4E00, 0x4F00, 500)))
    assert found([text, other, text[:240] + "。" + text[240:]], rules=NearRules()) == [-1, -1, 0]
