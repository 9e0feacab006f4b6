"""Near duplicates among documents whose band hashes are known.

Called once per build, by whoever holds the band hashes of all documents in source order. The
result is that of going through the documents one by one and comparing each with the originals
that share a band with it; an original is a document that is known from before or was kept.
Invariant: it depends on the bands and the texts alone, not on how many texts are asked for at once.

Boilerplate can put thousands of different documents into one bucket. So a bucket lists its first
`MAX_BUCKET` originals only, and a document is compared with at most `MAX_COMPARED` of them, those
that share most bands with it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mulm.data.near import Bands
from mulm.data.texts import Hashes, Numbers

MAX_BUCKET = 64
MAX_COMPARED = 16
_ASKED_BYTES = 64 << 20
"""About how much text is asked for at once: little beside a build's memory, and so much that no
chunk is read often. The sets of n-grams take a little more than their texts."""

ShinglesOf = Callable[[Sequence[int]], list[Hashes]]


def near_duplicates(
    bands: Bands,
    size_bytes: Numbers,
    shingles_of: ShinglesOf,
    min_similarity: float,
    n_known: int = 0,
) -> Numbers:
    """For each document -1 if it is kept, else the row of the original that it repeats.

    Args:
        bands: A row of band hashes for each document in order, all 0 for one without n-grams.
        size_bytes: Of each document's text.
        shingles_of: Gives the sorted, different n-gram hashes of the documents of some rows, which
            rise.
        min_similarity: Jaccard similarity from which on a document is dropped.
        n_known: So many rows come first that are never dropped.
    """
    originals = np.full(len(bands), -1, dtype=np.int64)
    shared = _shared_only(bands)
    buckets = Buckets(shared)
    rows: list[int] = np.flatnonzero(shared.any(axis=1)).tolist()
    n_known_rows = int(np.searchsorted(rows, n_known))
    for row in rows[:n_known_rows]:
        buckets.add(row)
    for block, asked in _blocks(rows[n_known_rows:], buckets, size_bytes):
        sets = dict(zip(asked, shingles_of(asked), strict=True))
        for row in block:
            for original in buckets.candidates(row):
                if is_similar(sets[row], sets[original], min_similarity):
                    originals[row] = original
                    break
            else:
                buckets.add(row)
    return originals


class Buckets:
    """The originals so far, by the hash of each band; a hash of 0 is none."""

    def __init__(self, bands: Bands) -> None:
        self._bands = bands
        self._rows: list[defaultdict[int, list[int]]] = [
            defaultdict(list) for _ in range(bands.shape[1])
        ]

    def add(self, row: int) -> None:
        """The document of a row is an original."""
        for rows_by_hash, value in zip(self._rows, self._bands[row].tolist(), strict=True):
            if value and len(rows_by_hash[value]) < MAX_BUCKET:
                rows_by_hash[value].append(row)

    def candidates(self, row: int) -> list[int]:
        """Originals to compare with, those that share most bands first."""
        shared: Counter[int] = Counter()
        for rows_by_hash, value in zip(self._rows, self._bands[row].tolist(), strict=True):
            if value:
                shared.update(rows_by_hash.get(value, ()))
        ranked = sorted(shared, key=lambda original: (-shared[original], original))
        return ranked[:MAX_COMPARED]


def is_similar(a: Hashes, b: Hashes, min_similarity: float) -> bool:
    """Whether the Jaccard similarity of two sorted sets reaches a bound."""
    least, most = sorted((len(a), len(b)))
    if least < min_similarity * most:
        return False
    both = np.sort(np.concatenate([a, b]), kind="stable")  # merges two sorted runs
    n_shared = int((both[1:] == both[:-1]).sum())
    return n_shared >= min_similarity * (len(both) - n_shared)


def _shared_only(bands: Bands) -> Bands:
    """The hashes that another document has in the same band; 0 for all others."""
    shared = np.zeros_like(bands)
    for place, band in enumerate(bands.T):
        order = np.argsort(band, kind="stable")
        ordered = band[order]
        is_same = ordered[1:] == ordered[:-1]
        shared[order[1:][is_same], place] = ordered[1:][is_same]
        shared[order[:-1][is_same], place] = ordered[1:][is_same]
    return shared


def _blocks(
    rows: list[int], buckets: Buckets, size_bytes: Numbers
) -> Iterator[tuple[list[int], list[int]]]:
    """Rows to decide on, and all rows whose texts that can take.

    What is added to the buckets while a block is decided comes from the block itself, and only
    pushes others out of the ranks: nothing else can be asked for.
    """
    block: list[int] = []
    asked: set[int] = set()
    asked_bytes = 0
    for row in rows:
        block.append(row)
        more = {row, *buckets.candidates(row)} - asked
        asked |= more
        asked_bytes += int(size_bytes[list(more)].sum())
        if asked_bytes >= _ASKED_BYTES:
            yield block, sorted(asked)
            block, asked, asked_bytes = [], set(), 0
    if block:
        yield block, sorted(asked)
