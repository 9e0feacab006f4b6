"""Intervals are the textbook's, and the same every time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mulm.eval.intervals import bootstrap_perplexity, perplexity, standard_error, wilson


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1), (81, 263, 0.2553, 0.3662)],
)
def test_wilsons_interval(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000), st.data())
def test_an_interval_holds_its_score(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    low, high = wilson(right, n)
    assert 0 <= low <= right / n <= high <= 1
    assert low < high


def test_the_standard_error_is_that_of_the_harness() -> None:
    assert standard_error([1, 1, 0, 0]) == pytest.approx(math.sqrt(1 / 3) / 2)
    assert standard_error([1]) == 0


def test_the_bootstrap_is_seeded_and_about_right() -> None:
    logs = (torch.randn(400, generator=seeded(1)) / 2 - 2).tolist()
    error, (low, high) = bootstrap_perplexity(logs, seeded(0))
    assert (error, (low, high)) == bootstrap_perplexity(logs, seeded(0))
    expected = perplexity(logs) * standard_error(logs)  # by the delta method
    assert error == pytest.approx(expected, rel=0.1)
    assert low < perplexity(logs) < high
    assert high - low == pytest.approx(2 * 1.96 * expected, rel=0.1)


def test_a_hopeless_model_has_a_finite_perplexity() -> None:
    error, interval = bootstrap_perplexity([-1e5, -2e5, -3e5], seeded(0))
    assert all(map(math.isfinite, (perplexity([-1e5, -2e5]), error, *interval)))
