"""Which documents of a build repeat another one: exactly, nearly, or one of an existing version.

Called by the driver between reading and deciding. Existing versions come first in order, so that
they are always the originals; their digests and bands are worked out from their texts, whatever
release wrote them. Invariants: texts are read again only of documents that MinHash calls alike; at
no time do all of them lie in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mulm.data.corpus import Chunk, Corpus
from mulm.data.decisions import (
    Flags,
    Index,
    Rows,
    exact_duplicates,
)
from mulm.data.dedup import DIGEST_BYTES, digest
from mulm.data.near import band_hashes, shingle_sets
from mulm.data.near_pairs import near_duplicates
from mulm.data.rules import DedupRules, NearRules
from mulm.data.texts import batches


@dataclass(frozen=True, slots=True)
class Repetitions:
    """What was found of each document of a build."""

    original: Rows
    """The earlier document that it repeats, or -1."""
    is_near: Flags
    """Whether it does so only nearly."""
    is_known: Flags
    """Whether it repeats a document of an existing version."""


@dataclass(frozen=True, slots=True)
class Known:
    """What an existing version's kept documents are recognised by."""

    corpus: Corpus
    numbers: Rows
    size_bytes: Rows
    digests: np.ndarray
    bands: np.ndarray | None

    @classmethod
    def of(cls, corpus: Corpus, near: NearRules | None) -> Known:
        """Read all kept documents of a version."""
        numbers, sizes, digests, bands = [], [], [], []
        for chunk in corpus.chunks:
            own = chunk.first + np.flatnonzero(chunk.decisions.are_kept)
            numbers.append(own)
            for texts in batches(_texts(corpus, chunk, own)):
                sizes += [len(text.encode()) for text in texts]
                digests += [digest(text) for text in texts]
                if near is not None:
                    bands.append(band_hashes(texts, near))
        return cls(
            corpus,
            np.concatenate(numbers) if numbers else np.zeros(0, np.int64),
            np.array(sizes, np.int64),
            np.frombuffer(b"".join(digests), f"V{DIGEST_BYTES}"),
            np.concatenate(bands) if bands else None,
        )


def find_repetitions(
    index: Index, corpus: Corpus, rules: DedupRules, against: Sequence[Corpus] = ()
) -> Repetitions:
    """Compare all documents of a build with each other and with those of existing versions."""
    known = [Known.of(other, rules.near) for other in against]
    digests = np.concatenate([one.digests for one in known]) if known else None
    original, is_known = exact_duplicates(index, digests)
    is_near = np.zeros(len(index), np.bool_)
    if rules.near is None or index.bands is None:
        return Repetitions(original, is_near, is_known)
    rows = np.flatnonzero((original < 0) & ~is_known & _without_reason(index))
    found = _near(rows, index, corpus, rules.near, known)
    n_known = sum(len(one.numbers) for one in known)
    own = found >= n_known
    original[rows[own]] = rows[found[own] - n_known]
    is_near[rows[own]] = True
    is_known[rows[(found >= 0) & ~own]] = True
    return Repetitions(original, is_near, is_known)


def _near(
    rows: Rows, index: Index, corpus: Corpus, near: NearRules, known: Sequence[Known]
) -> Rows:
    """For each of `rows` the place of its original among known documents and `rows`, or -1."""
    assert index.bands is not None
    places = [(one.corpus, one.numbers) for one in known] + [(corpus, rows)]
    ends = np.cumsum([len(numbers) for _, numbers in places])

    def shingles_of(wanted: Sequence[int]) -> list[np.ndarray]:
        asked = np.asarray(wanted, np.int64)
        groups = np.searchsorted(ends, asked, side="right")
        sets: list[np.ndarray] = []
        for group in np.unique(groups):  # asked for in rising order, so answered in it
            own, numbers = places[group]
            first = int(ends[group]) - len(numbers)
            sets += _shingles(own, numbers[asked[groups == group] - first], near)
        return sets

    all_bands = [one.bands for one in known if one.bands is not None] + [index.bands[rows]]
    sizes = [one.size_bytes for one in known] + [index.size_bytes[rows]]
    n_known = int(ends[-1]) - len(rows)
    whole = near_duplicates(
        np.concatenate(all_bands), np.concatenate(sizes), shingles_of, near.min_similarity, n_known
    )
    return whole[n_known:]


def _shingles(corpus: Corpus, numbers: Rows, near: NearRules) -> Iterator[np.ndarray]:
    """The n-grams of documents in rising order; each chunk is read once."""
    for chunk, own in corpus.by_chunk(numbers):
        for texts in batches(_texts(corpus, chunk, own)):
            yield from shingle_sets(texts, near)


def _texts(corpus: Corpus, chunk: Chunk, numbers: Rows) -> Iterator[str]:
    taken = corpus.table(chunk, ["text"])["text"].take(pa.array(numbers - chunk.first))
    return (text.as_py() for text in taken)


def _without_reason(index: Index) -> Flags:
    return np.array([not reason for reason in index.reasons], np.bool_)
