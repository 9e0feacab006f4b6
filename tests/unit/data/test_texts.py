from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.texts import MAX_WORD_BYTES, Texts, mixed

BATCHES = st.lists(
    st.text(
        st.characters(exclude_categories=["Cs"])
        | st.sampled_from("  aaZz09_-.\n«»é’…日本、กขက០한😀ÿ\u0301")
    ),
    max_size=5,
)
ALL_BITS = (1 << 64) - 1


def plain_words(text: str) -> list[bytes]:
    """The definition of a word, one character at a time."""
    words, is_open = [b""], False
    for character in text:
        code = ord(character)
        is_single = code >= 0x3000 or any(
            low <= code <= high
            for low, high in [(0xE00, 0xEFF), (0x1000, 0x10BF), (0x1780, 0x17FF)]
        )
        is_letter = character.isalnum() if code < 0x80 else code >= 0xC0
        is_letter &= not 0x2000 <= code < 0x3000
        if is_letter and is_open and not is_single:
            words[-1] += character.lower().encode() if code < 0x80 else character.encode()
        elif is_letter:
            words.append(character.lower().encode() if code < 0x80 else character.encode())
        is_open = is_letter and not is_single
    size = MAX_WORD_BYTES
    return [word[at : at + size] for word in words for at in range(0, len(word), size)]


def plain_hash(word: bytes) -> int:
    value = len(word) * 0x9E3779B97F4A7C15 & ALL_BITS
    for at in range(0, len(word), 8):
        value = (value ^ int.from_bytes(word[at : at + 8], "little")) * 0xD6E8FEB86659FD93
        value &= ALL_BITS
        value ^= value >> 32
    return value


def plain_mixed(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & ALL_BITS
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & ALL_BITS
    return value ^ (value >> 31)


def plain_ngrams(text: str, n: int) -> list[int]:
    hashes = [plain_hash(word) for word in plain_words(text)]
    ngrams = []
    for first in range(len(hashes) - n + 1):
        value = 0
        for word in hashes[first : first + n]:
            value = (value * 0xA0761D6478BD642F + word) & ALL_BITS
        ngrams.append(plain_mixed(value))
    return ngrams


@given(BATCHES)
def test_words_are_their_plain_definition(batch: list[str]) -> None:
    texts = Texts(batch)
    words = texts.words
    folded = [plain_words(text) for text in batch]
    assert words.counts.tolist() == [len(own) for own in folded]
    found = [texts.content[a:b].lower() for a, b in zip(words.starts, words.ends, strict=True)]
    assert found == [word for own in folded for word in own]
    assert words.hashes.tolist() == [plain_hash(word) for own in folded for word in own]


@given(BATCHES, st.integers(1, 4))
def test_ngrams_stay_within_a_text(batch: list[str], n: int) -> None:
    hashes, rows = Texts(batch).words.ngrams(n)
    expected = [(row, own) for row, text in enumerate(batch) for own in plain_ngrams(text, n)]
    assert list(zip(rows.tolist(), hashes.tolist(), strict=True)) == expected


@pytest.mark.parametrize("n_bytes", [7, 8, 9, 63, 64, 65, 128, 1000])
def test_long_words(n_bytes: int) -> None:
    text = "x" * n_bytes + "y z"
    words = Texts(["a b", text, ""]).words
    assert words.hashes[2:].tolist() == [plain_hash(word) for word in plain_words(text)]


def test_words_of_several_scripts() -> None:
    texts = Texts(["Don’t stop: naïve «Ärger» 42", "日本語。한국", "ภาษา tail"])
    words = texts.words
    found = [texts.content[a:b].decode() for a, b in zip(words.starts, words.ends, strict=True)]
    assert found[:6] == ["Don", "t", "stop", "naïve", "Ärger", "42"]
    assert found[6:12] == list("日本語。한국")
    assert found[12:] == [*"ภาษา", "tail"]


def test_mixed() -> None:
    values = np.array([0, 1, ALL_BITS, 12345], dtype=np.uint64)
    assert mixed(values).tolist() == [plain_mixed(value) for value in values.tolist()]


def test_no_texts() -> None:
    assert len(Texts([])) == 0
    assert len(Texts([]).words.hashes) == 0
    assert len(Texts(["a"]).words.ngrams(5)[0]) == 0
