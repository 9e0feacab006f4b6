from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.data.repetition import (
    MAX_DUPLICATE_NGRAMS,
    MAX_TOP_NGRAM,
    duplicate_chars,
    duplicate_ngram_chars,
    gopher_repetition,
    repeated_ngrams,
    top_ngram_chars,
)
from mulm.data.texts import Texts
from tests.unit.data.test_texts import plain_words

SENTENCES = st.lists(st.sampled_from(["a", "b", "cc", "déf", "日本", "e-f", "."]), max_size=40)
BATCHES = st.lists(SENTENCES.map(" ".join), max_size=4)
PROSE = " ".join(f"word{n} and more{n * 7}" for n in range(100))


def plain_top(text: str, n: int) -> int:
    words = [word.decode() for word in plain_words(text)]
    counts = Counter(" ".join(words[at : at + n]) for at in range(len(words) - n + 1))
    most = max(counts.values(), default=0)
    return max((most * len(own) for own, k in counts.items() if k == most), default=0) * (most > 1)


def plain_duplicate(text: str, n: int) -> int:
    words = [word.decode() for word in plain_words(text)]
    seen, covered = set(), set()
    for at in range(len(words) - n + 1):
        ngram = tuple(words[at : at + n])
        if ngram in seen:
            covered.update(range(at, at + n))
        seen.add(ngram)
    return sum(len(words[at]) for at in covered)


@settings(max_examples=25)
@given(BATCHES)
def test_ngrams_are_counted_as_in_the_plain_way(batch: list[str]) -> None:
    texts = Texts(batch)
    for repeated in repeated_ngrams(texts):
        top = top_ngram_chars(texts, repeated).tolist()
        assert top == [plain_top(text, repeated.n) for text in batch]
        duplicate = duplicate_ngram_chars(texts, repeated).tolist()
        assert duplicate == [plain_duplicate(text, repeated.n) for text in batch]


def plain_reason(text: str) -> str:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    paragraphs = [own.strip() for own in text.split("\n\n") if own.strip()]
    for name, blocks in (("paragraphs", paragraphs), ("lines", lines)):
        later = [block for at, block in enumerate(blocks) if block in blocks[:at]]
        if len(later) > 0.3 * len(blocks):
            return f"gopher_duplicate_{name}"
        if sum(map(len, later)) > 0.2 * len(text):
            return f"gopher_duplicate_{name[:-1]}_characters"
    for n, bound in MAX_TOP_NGRAM.items():
        if plain_top(text, n) > bound * len(text):
            return f"gopher_top_{n}_gram"
    for n, bound in MAX_DUPLICATE_NGRAMS.items():
        if plain_duplicate(text, n) > bound * len(text):
            return f"gopher_duplicate_{n}_grams"
    return ""


BLOCKS = st.lists(
    st.sampled_from(["\n", "\n\n", "one line", " one line", PROSE, PROSE[:300], "x y " * 9]),
    max_size=12,
)


@settings(max_examples=25)
@given(st.lists(BLOCKS.map("\n".join), max_size=3))
def test_reasons_are_those_of_the_plain_way(batch: list[str]) -> None:
    assert gopher_repetition(Texts(batch)) == [plain_reason(text) for text in batch]


def with_copies(n_words: int, n_times: int) -> str:
    phrase = " ".join(f"again{n}" for n in range(n_words))
    return (
        " ".join(f"{phrase} only{n} once{n * 3} here{n * 5}" for n in range(n_times)) + " " + PROSE
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", ""),
        (PROSE, ""),
        ("\n\n".join([PROSE, *["short"] * 3]), "gopher_duplicate_paragraphs"),
        (
            "\n\n".join([*map(str, range(9)), PROSE[:900], PROSE[:900]]),
            "gopher_duplicate_paragraph_characters",
        ),
        ("\n".join([PROSE, *["short"] * 3]), "gopher_duplicate_lines"),
        (
            "\n".join([*map(str, range(9)), PROSE[:900], PROSE[:900]]),
            "gopher_duplicate_line_characters",
        ),
        (with_copies(2, 100), "gopher_top_2_gram"),
        (with_copies(3, 50), "gopher_top_3_gram"),
        (with_copies(4, 20), "gopher_top_4_gram"),
        (PROSE + " but " + PROSE, "gopher_duplicate_5_grams"),
    ],
)
def test_each_reason(text: str, reason: str) -> None:
    assert gopher_repetition(Texts([PROSE, text, "x"])) == ["", reason, ""]


def test_duplicate_chars() -> None:
    assert duplicate_chars(["aa", "b", "aa", "aa"]) == 4
    assert duplicate_chars(["aa", "b"]) == 0
