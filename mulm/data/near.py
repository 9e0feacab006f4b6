"""Signatures for near duplicates: texts that share most of their word n-grams.

Called by chunks of a build: `band_hashes` where texts are cleaned, `shingle_sets` for the few
candidates that `mulm.data.near_pairs` asks about. Invariant: each row depends on its text and the
rules alone.

One permutation hashing (Li, Owen, Zhang, 2012): the n-grams of a text are dealt to bins by their
hash, and the least hash of each bin is kept; an empty bin borrows from a filled one by the rule of
Shrivastava (2017). Two texts agree in a bin with a probability that is their Jaccard similarity.
Bins are folded into bands; texts that agree in a whole band are candidates (LSH).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mulm.data.rules import NearRules
from mulm.data.texts import Flags, Hashes, Numbers, Texts, mixed

N_BANDS = 24
MIN_RECALL = 0.995
"""Pairs that are just similar enough become candidates with this probability."""
MAX_BAND_BINS = 10

Bands = np.ndarray[tuple[int, int], np.dtype[np.uint64]]

_NOTHING = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_BORROW_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def n_band_bins(min_similarity: float) -> int:
    """Bins in a band: as many as `MIN_RECALL` allows, so that chance candidates are few."""
    for n_bins in range(MAX_BAND_BINS, 1, -1):
        if 1 - (1 - min_similarity**n_bins) ** N_BANDS >= MIN_RECALL:
            return n_bins
    return 1


def band_hashes(texts: Sequence[str], rules: NearRules) -> Bands:
    """A row of `N_BANDS` hashes for each text; all 0 if it has fewer words than an n-gram."""
    hashes, rows = Texts(texts).words.ngrams(rules.ngram)
    n_bins = N_BANDS * n_band_bins(rules.min_similarity)
    bins = _least_by_bin(hashes, rows, len(texts), n_bins)
    is_long_enough = bins.min(axis=1, initial=_NOTHING) != _NOTHING
    bands = np.zeros((len(texts), N_BANDS), dtype=np.uint64)
    bands[is_long_enough] = _folded(_with_borrowed(bins[is_long_enough]))
    return bands


def shingle_sets(texts: Sequence[str], rules: NearRules) -> list[Hashes]:
    """The sorted, different hashes of the word n-grams of each text."""
    hashes, rows = Texts(texts).words.ngrams(rules.ngram)
    places = np.searchsorted(rows, np.arange(1, len(texts)))
    return [np.unique(own) for own in np.split(hashes, places)] if texts else []


def _least_by_bin(hashes: Hashes, rows: Numbers, n_texts: int, n_bins: int) -> Bands:
    """The upper half of a hash chooses its bin, the lower half is its value there."""
    bins = (hashes >> _HALF) * np.uint64(n_bins) >> _HALF
    least = np.full(n_texts * n_bins, _NOTHING, dtype=np.uint64)
    np.minimum.at(least, rows * n_bins + bins.astype(np.int64), hashes & _LOW)
    return least.reshape(n_texts, n_bins)


def _with_borrowed(bins: Bands) -> Bands:
    """Each empty bin tries others in an order of its own, the same for all texts."""
    n_bins = bins.shape[1]
    filled: Bands = bins.copy()
    rows, empty = np.nonzero(bins == _NOTHING)
    attempt = 0
    while len(rows):
        attempt += 1
        asked = _asked_bins(n_bins, attempt)[empty]
        found = bins[rows, asked]
        filled[rows, empty] = found
        is_left: Flags = found == _NOTHING
        rows, empty = rows[is_left], empty[is_left]
    return filled


def _asked_bins(n_bins: int, attempt: int) -> Numbers:
    """The bin that each bin asks at an attempt; after many, all take turns."""
    bins = np.arange(n_bins, dtype=np.uint64)
    if attempt > 4 * n_bins:
        return ((bins + np.uint64(attempt)) % np.uint64(n_bins)).astype(np.int64)
    seeds = (bins + np.uint64(1)) * _BORROW_FACTOR + np.uint64(attempt)
    return (mixed(seeds) % np.uint64(n_bins)).astype(np.int64)


def _folded(bins: Bands) -> Bands:
    """One hash for the bins of each band, never 0."""
    by_band = bins.reshape(len(bins), N_BANDS, bins.shape[1] // N_BANDS)
    bands = np.zeros((len(bins), N_BANDS), dtype=np.uint64)
    for place in range(by_band.shape[2]):
        bands = mixed(bands + by_band[:, :, place] + np.uint64(place + 1))
    return np.maximum(bands, np.uint64(1))
