"""How far a score may be from the one that endless items of this kind would give.

Called by `mulm.eval.scoring`. Invariant: the same values and seed give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959963984540054
"""The standard normal distribution has 95 % within plus and minus so much."""
_RESAMPLES = 2000
_BLOCK_NUMBERS = 1 << 22
_LARGEST_EXPONENT = 700.0
"""exp of more is no number; such a model is no model."""

Interval = tuple[float, float]


def standard_error(values: Sequence[float]) -> float:
    """Of the mean: the sample's deviation (n - 1) over the root of n; 0 for a single value."""
    n = len(values)
    return float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else 0.0


def wilson(n_right: float, n: int) -> Interval:
    """Wilson's 95 % interval of a share: it stays within 0 and 1, and holds for few items."""
    share, shrink = n_right / n, 1 + _Z**2 / n
    middle = (share + _Z**2 / (2 * n)) / shrink
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / shrink
    # Exactly, where rounding would leave a crumb.
    return (middle - half if n_right > 0 else 0.0), (middle + half if n_right < n else 1.0)


def perplexity(log_likelihoods: Sequence[float]) -> float:
    """Exp of minus their mean."""
    return math.exp(min(-float(np.mean(log_likelihoods)), _LARGEST_EXPONENT))


def bootstrap_perplexity(
    log_likelihoods: Sequence[float], generator: np.random.Generator
) -> tuple[float, Interval]:
    """Standard error and 95 % interval of a perplexity, from items drawn again and again."""
    values, n = np.asarray(log_likelihoods), len(log_likelihoods)
    rows = max(1, _BLOCK_NUMBERS // n)
    means: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    for start in range(0, _RESAMPLES, rows):
        drawn = generator.integers(0, n, (min(rows, _RESAMPLES - start), n))
        means.append(values[drawn].mean(axis=1))
    drawn_values = np.exp(np.minimum(-np.concatenate(means), _LARGEST_EXPONENT / 2))
    low, high = np.quantile(drawn_values, (0.025, 0.975))
    return float(np.std(drawn_values, ddof=1)), (float(low), float(high))
