"""A batch of texts as one buffer of bytes, and its words and their n-grams as arrays.

Rules, near duplicates and the search for evaluations stand on it. Invariant: words and hashes
depend on a text's characters alone: not on the batch, the machine or the process.

A word is a run of ASCII letters and digits, in lower case, and of letters beyond ASCII. Each
character of scripts without spaces (kana, ideographs, Hangul, Thai, Lao, Burmese, Khmer) and each
emoji is a word of its own, so that n-grams there are n-grams of characters. Punctuation of
Latin-1 and the block of general punctuation with its neighbours (U+2000 to U+2FFF) divide words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]
Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]
Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]
Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]

Shape = TypeVar("Shape", bound=tuple[int, ...])

MAX_WORD_BYTES = 64
"""Longer runs, which nobody wrote, are cut into words of this length."""

BATCH_CHARS = 1 << 20
"""Large enough for vectors, small enough for a processor's cache."""

_BLOCK_BYTES = 8
_FOLDED = bytes(
    code | 0x20 if chr(code).isalpha() else code if code >= 0x80 or chr(code).isdigit() else 0
    for code in range(0x80)
) + bytes(range(0x80, 0x100))
_LENGTH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_BLOCK_FACTOR = np.uint64(0xD6E8FEB86659FD93)
WORD_FACTOR = np.uint64(0xA0761D6478BD642F)
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(_BLOCK_BYTES + 1)], dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of all texts of a batch, in order.

    Word w is `content[starts[w]:ends[w]]` of text `rows[w]`; those of text t are `firsts[t]` to
    `firsts[t + 1]`.
    """

    starts: Numbers
    ends: Numbers
    firsts: Numbers
    rows: Numbers
    hashes: Hashes

    @property
    def counts(self) -> Numbers:
        """By text."""
        return np.diff(self.firsts)

    def sums(self, values: np.ndarray[Any, Any]) -> Numbers:
        """By text, the sum of a number that each word has."""
        until = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return np.diff(until[self.firsts])

    def ngrams(self, n: int) -> tuple[Hashes, Numbers]:
        """The hashes of all runs of n words within a text, and the text of each."""
        rows = self.rows
        n_runs = max(len(rows) - n + 1, 0)
        is_inside = rows[:n_runs] == rows[n - 1 :]
        sums = np.zeros(n_runs, dtype=np.uint64)
        for offset in range(n):
            sums *= WORD_FACTOR
            sums += self.hashes[offset : offset + n_runs]
        return mixed(sums[is_inside]), rows[:n_runs][is_inside]


class Texts:
    """Texts, each followed by a line end, in one buffer."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        parts = [text.encode("utf-8", "surrogatepass") for text in texts]
        self.content = b"\n".join([*parts, b""])
        """Text t stands at `starts[t]` to `starts[t + 1] - 1`."""
        self.starts: Numbers = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) + 1 for part in parts], out=self.starts[1:])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def view(self) -> Bytes:
        """The content as numbers."""
        return np.frombuffer(self.content, dtype=np.uint8)

    @cached_property
    def n_chars(self) -> Numbers:
        """Characters of each text."""
        return np.array([len(text) for text in self.texts], dtype=np.int64)

    @cached_property
    def lines(self) -> list[list[str]]:
        """The lines of each text without white space around them, and without blank ones."""
        return [[line for line in map(str.strip, text.split("\n")) if line] for text in self.texts]

    @cached_property
    def word_chars(self) -> Numbers:
        """Characters of each word."""
        starts, ends = self.words.starts, self.words.ends
        if self.content.isascii():
            return ends - starts
        is_first = np.concatenate([[False], self.view & 0xC0 != 0x80])
        n_before = np.cumsum(is_first, dtype=np.int64)
        return n_before[ends] - n_before[starts]

    @cached_property
    def words(self) -> Words:
        """All words, with a hash of each."""
        padded = np.zeros(len(self.content) + 1 + _BLOCK_BYTES, dtype=np.uint8)
        folded = padded[1 : len(self.content) + 1]
        folded[:] = np.frombuffer(self.content.translate(_FOLDED), dtype=np.uint8)
        starts, ends = _whole_words(padded, is_ascii=self.content.isascii())
        starts, ends = _cut_long(starts, ends)
        firsts: Numbers = np.searchsorted(starts, self.starts).astype(np.int64)
        rows = np.repeat(np.arange(len(self)), np.diff(firsts))
        return Words(starts, ends, firsts, rows, _word_hashes(padded, starts, ends - starts))


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in lists of about `BATCH_CHARS`: many times that is used while one is looked at."""
    batch: list[str] = []
    n_chars = 0
    for text in texts:
        batch.append(text)
        n_chars += len(text)
        if n_chars >= BATCH_CHARS:
            yield batch
            batch, n_chars = [], 0
    if batch:
        yield batch


def mixed(values: np.ndarray[Shape, np.dtype[np.uint64]]) -> np.ndarray[Shape, np.dtype[np.uint64]]:
    """The finaliser of SplitMix64 (Steele et al., 2014): each bit depends on all bits."""
    result = values ^ (values >> np.uint64(30))
    result *= np.uint64(0xBF58476D1CE4E5B9)
    result ^= result >> np.uint64(27)
    result *= np.uint64(0x94D049BB133111EB)
    result ^= result >> np.uint64(31)
    return result


def _whole_words(padded: Bytes, *, is_ascii: bool) -> tuple[Numbers, Numbers]:
    """Where words begin and end in the content, which `padded` holds folded from place 1 on."""
    if not is_ascii:
        _divide_at_punctuation(padded)
    is_word = padded[:-_BLOCK_BYTES] != 0
    is_edge = is_word[1:] != is_word[:-1]
    if is_ascii:
        edges = np.flatnonzero(is_edge)
        return edges[0::2], edges[1::2]
    leads, ends = _single_characters(padded[1:-_BLOCK_BYTES])
    is_edge[leads] = True
    is_edge[ends] = True
    edges = np.flatnonzero(is_edge)
    begun = np.flatnonzero(is_word[1:][edges])
    return edges[begun], edges[begun + 1]


def _divide_at_punctuation(padded: Bytes) -> None:
    for lead, n_bytes in ((0xC2, 2), (0xE2, 3)):
        places = np.flatnonzero(padded == lead)
        for offset in range(n_bytes):
            padded[places + offset] = 0


def _single_characters(folded: Bytes) -> tuple[Numbers, Numbers]:
    """Where characters begin and end that are words by themselves."""
    leads = np.flatnonzero(folded >= 0xE0)
    lead, second = folded[leads], folded[leads + 1]
    is_thai_or_lao = (lead == 0xE0) & (second >= 0xB8) & (second <= 0xBB)
    is_burmese = (lead == 0xE1) & (second <= 0x82)
    is_khmer = (lead == 0xE1) & ((second == 0x9E) | (second == 0x9F))
    leads = leads[(lead >= 0xE3) | is_thai_or_lao | is_burmese | is_khmer]
    return leads, leads + 3 + (folded[leads] >= 0xF0)


def _cut_long(starts: Numbers, ends: Numbers) -> tuple[Numbers, Numbers]:
    n_pieces = -(-(ends - starts) // MAX_WORD_BYTES)
    if len(starts) == n_pieces.sum():
        return starts, ends
    before = np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    cut_starts = np.repeat(starts, n_pieces)
    cut_starts += (np.arange(len(before)) - before) * MAX_WORD_BYTES
    return cut_starts, np.minimum(cut_starts + MAX_WORD_BYTES, np.repeat(ends, n_pieces))


def _word_hashes(padded: Bytes, starts: Numbers, lengths: Numbers) -> Hashes:
    """Eight bytes of each word at a time, as little-endian numbers."""
    blocks: Hashes = np.ndarray(
        (len(padded) - _BLOCK_BYTES,), dtype="<u8", buffer=padded.data, offset=1, strides=(1,)
    )
    hashes = lengths.astype(np.uint64) * _LENGTH_FACTOR
    hashes = _with_block(hashes, blocks[starts], lengths)
    unfinished = np.flatnonzero(lengths > _BLOCK_BYTES)
    done_bytes = _BLOCK_BYTES
    while len(unfinished):
        places, left = starts[unfinished] + done_bytes, lengths[unfinished] - done_bytes
        hashes[unfinished] = _with_block(hashes[unfinished], blocks[places], left)
        unfinished = unfinished[left > _BLOCK_BYTES]
        done_bytes += _BLOCK_BYTES
    return hashes


def _with_block(hashes: Hashes, blocks: Hashes, n_bytes: Numbers) -> Hashes:
    hashes = (hashes ^ (blocks & _MASKS[np.minimum(n_bytes, _BLOCK_BYTES)])) * _BLOCK_FACTOR
    return hashes ^ (hashes >> np.uint64(32))
