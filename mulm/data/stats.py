"""Statistics of a version: how long its documents are, where they come from, what was dropped.

Called by `mulm data stats`. Goes chunk by chunk through the columns other than the texts, and
shard by shard through the tokens. Invariant: memory does not grow with the corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from mulm.data.corpus import UNKNOWN, Chunk, Corpus
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store

Counts = np.ndarray[tuple[int], np.dtype[np.int64]]
_N_BUCKETS = 64
_UNITS = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a histogram."""

    name: str
    count: int
    size_bytes: int = 0
    """Of the text that is counted; 0 where that is not asked."""


@dataclass(frozen=True, slots=True)
class Stats:
    """The histograms of a version; all but `reasons` are of the documents that were kept."""

    documents: int
    rejected: int
    size_bytes: int
    lengths: tuple[Bar, ...]
    """By bytes of text: each bar is twice as long as the one before."""
    languages: tuple[Bar, ...]
    sources: tuple[Bar, ...]
    reasons: tuple[Bar, ...]
    tokens: tuple[Bar, ...]
    """By tokens of a document; where rows are packed, of the pieces that documents are cut into."""


def stats_of(store: Store, documents: Manifest, dataset: Manifest, end_of_text_id: int) -> Stats:
    """The statistics of a dataset version and of the documents that it was made from.

    Raises:
        NotFoundError, CorruptError: a file is missing or damaged.
    """
    tally = _Tally()
    corpus = Corpus.of(store, documents)
    for chunk in corpus.chunks:
        tally.add(corpus, chunk)
    lengths = token_lengths(_shards(store, dataset), end_of_text_id)
    return Stats(
        documents=int(tally.lengths.sum()),
        rejected=sum(tally.reasons.count.values()),
        size_bytes=int(sum(tally.sources.size_bytes.values())),
        lengths=_buckets(tally.lengths, tally.length_bytes),
        languages=tally.languages.bars(),
        sources=tally.sources.bars(),
        reasons=tally.reasons.bars(),
        tokens=_buckets(lengths, np.zeros_like(lengths)),
    )


def token_lengths(shards: Iterable[np.ndarray], end_of_text_id: int) -> Counts:
    """How many documents have from 2^(b-1) to 2^b - 1 tokens, at index b.

    Documents are what lies between end-of-text tokens; what merely fills a row is none.
    """
    counts = np.zeros(_N_BUCKETS, np.int64)
    for ids in shards:
        borders = np.append(np.flatnonzero(ids == end_of_text_id), len(ids))
        lengths = np.diff(borders) - 1
        counts += _bucketed(lengths[lengths > 0])
    return counts


@dataclass(slots=True)
class _Groups:
    """Documents and bytes by name."""

    count: Counter[str] = field(default_factory=Counter)
    size_bytes: Counter[str] = field(default_factory=Counter)

    def add(self, names: np.ndarray, sizes_bytes: np.ndarray) -> None:
        found, inverse = np.unique(names, return_inverse=True)
        counts = np.bincount(inverse, minlength=len(found))
        sizes = np.bincount(inverse, sizes_bytes, minlength=len(found))
        for name, count, size_bytes in zip(found, counts, sizes, strict=True):
            self.count[str(name) or UNKNOWN] += int(count)
            self.size_bytes[str(name) or UNKNOWN] += int(size_bytes)

    def bars(self) -> tuple[Bar, ...]:
        """The most frequent first."""
        ordered = sorted(self.count.items(), key=lambda item: (-item[1], item[0]))
        return tuple(Bar(name, count, self.size_bytes[name]) for name, count in ordered)


@dataclass(slots=True)
class _Tally:
    lengths: Counts = field(default_factory=lambda: np.zeros(_N_BUCKETS, np.int64))
    length_bytes: Counts = field(default_factory=lambda: np.zeros(_N_BUCKETS, np.int64))
    languages: _Groups = field(default_factory=_Groups)
    sources: _Groups = field(default_factory=_Groups)
    reasons: _Groups = field(default_factory=_Groups)

    def add(self, corpus: Corpus, chunk: Chunk) -> None:
        table = corpus.table(chunk, ("size_bytes", "language"))
        sizes = table["size_bytes"].to_numpy()
        is_kept = chunk.decisions.are_kept
        kept = sizes[is_kept]
        self.lengths += _bucketed(kept)
        self.length_bytes += _bucketed(kept, kept)
        languages = table["language"].to_numpy(zero_copy_only=False).astype(str)
        self.languages.add(languages[is_kept], kept)
        self.sources.add(np.full(len(kept), chunk.source), kept)
        decided = np.array(chunk.decisions.names)[chunk.decisions.codes]
        self.reasons.add(decided[~is_kept], sizes[~is_kept])


def _bucketed(values: np.ndarray, weights: np.ndarray | None = None) -> Counts:
    """Sums of weights (or counts) by the number of bits of each value."""
    bits = np.frexp(values.astype(np.float64))[1]
    return np.bincount(bits, weights, minlength=_N_BUCKETS).astype(np.int64)


def _buckets(counts: Counts, sizes_bytes: Counts) -> tuple[Bar, ...]:
    """All buckets from the first to the last that has something in it."""
    used = np.flatnonzero(counts)
    if not len(used):
        return ()
    return tuple(
        Bar(_bucket_name(bits), int(counts[bits]), int(sizes_bytes[bits]))
        for bits in range(int(used[0]), int(used[-1]) + 1)
    )


def _bucket_name(bits: int) -> str:
    if bits < 2:
        return str(bits)
    return f"{_short(1 << (bits - 1))}-{_short(1 << bits)}"


def _short(number: int) -> str:
    for unit, letter in _UNITS:
        if number >= unit:
            return f"{number // unit}{letter}"
    return str(number)


def _shards(store: Store, dataset: Manifest) -> Iterator[np.ndarray]:
    for entry in dataset.blobs:
        if entry.name.endswith(".bin") and entry.rows:
            yield np.frombuffer(store.read(entry), _dtype(entry))


def _dtype(entry: BlobEntry) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    return np.dtype("<u2") if entry.size_bytes == 2 * entry.rows else np.dtype("<u4")
