from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.data.near import (
    MIN_RECALL,
    N_BANDS,
    _asked_bins,
    band_hashes,
    n_band_bins,
    shingle_sets,
)
from mulm.data.rules import NearRules
from tests.unit.data.test_texts import ALL_BITS, plain_mixed, plain_ngrams

RULES = NearRules(min_similarity=0.8, ngram=2)
NOTHING = ALL_BITS
WORDS = ["a", "b", "c", "dd", "eee", "über", "日本", "stop.", "1234567890"]
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=60)


def plain_asked(place: int, n_bins: int, attempt: int) -> int:
    if attempt > 4 * n_bins:
        return (place + attempt) % n_bins
    return plain_mixed(((place + 1) * 0x9E3779B97F4A7C15 + attempt) & ALL_BITS) % n_bins


def plain_bands(text: str, rules: NearRules) -> list[int]:
    n_bins = N_BANDS * n_band_bins(rules.min_similarity)
    bins = [NOTHING] * n_bins
    for ngram in plain_ngrams(text, rules.ngram):
        place = (ngram >> 32) * n_bins >> 32
        bins[place] = min(bins[place], ngram & 0xFFFFFFFF)
    if set(bins) == {NOTHING}:
        return [0] * N_BANDS
    filled = list(bins)
    for place in range(n_bins):
        attempt = 0
        while filled[place] == NOTHING:
            attempt += 1
            filled[place] = bins[plain_asked(place, n_bins, attempt)]
    size = n_bins // N_BANDS
    bands = []
    for start in range(0, n_bins, size):
        band = 0
        for offset, least in enumerate(filled[start : start + size]):
            band = plain_mixed((band + least + offset + 1) & ALL_BITS)
        bands.append(max(band, 1))
    return bands


@settings(max_examples=25)
@given(st.lists(SENTENCES.map(" ".join), max_size=2))
def test_bands_are_their_plain_definition(texts: list[str]) -> None:
    expected = [plain_bands(text, RULES) for text in texts]
    assert band_hashes(texts, RULES).tolist() == expected


@settings(max_examples=40)
@given(st.lists(SENTENCES.map(" ".join), max_size=4))
def test_shingles_are_the_different_ngrams(texts: list[str]) -> None:
    expected = [sorted(set(plain_ngrams(text, RULES.ngram))) for text in texts]
    assert [own.tolist() for own in shingle_sets(texts, RULES)] == expected
    assert [shingle_sets([text], RULES)[0].tolist() for text in texts] == expected


def test_all_bins_are_asked_in_the_end() -> None:
    asked = {int(_asked_bins(10, attempt)[3]) for attempt in range(41, 51)}
    assert asked == set(range(10))


@pytest.mark.parametrize("min_similarity", [0.05, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_suit_the_bound(min_similarity: float) -> None:
    n_bins = n_band_bins(min_similarity)
    recall = 1 - (1 - min_similarity**n_bins) ** N_BANDS
    assert n_bins == 1 or recall >= MIN_RECALL


def test_agreement_tells_similarity() -> None:
    generator = np.random.default_rng(1)
    words = [f"w{n}" for n in range(4000)]
    text = " ".join(generator.choice(words, 2000))
    similar = text[: len(text) * 9 // 10]
    other = " ".join(generator.choice(words, 2000))
    bands = band_hashes([text, similar, other], NearRules())
    assert (bands[0] == bands[1]).sum() > 3
    assert not (bands[0] == bands[2]).any()


def test_hashes_are_the_same_everywhere() -> None:
    texts = ["The quick brown fox jumps over the lazy dog.", "いろはにほへと", "too short"]
    bands = band_hashes(texts, NearRules())
    assert bands[:, 0].tolist() == [628977683748134256, 11508344772127349357, 0]
    assert shingle_sets(texts[:1], NearRules())[0][0] == 742368018475063586
