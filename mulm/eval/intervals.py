"""How far a score may be from the one that endless items of this kind would give.

Called by `mulm.eval.scoring`. Invariant: the same values and seed give the same numbers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

_Z = 1.959963984540054
"""The standard normal distribution has 95 % within plus and minus so much."""
_RESAMPLES = 2000
_BLOCK_NUMBERS = 1 << 20
_LARGEST_EXPONENT = 700.0
"""exp of more is no number; such a model is no model."""

Interval = tuple[float, float]


def standard_error(values: Sequence[float]) -> float:
    """Of the mean: the sample's deviation (n - 1) over the root of n; 0 for a single value."""
    n = len(values)
    return statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0


def wilson(n_right: float, n: int) -> Interval:
    """Wilson's 95 % interval of a share: it stays within 0 and 1, and holds for few items."""
    share, shrink = n_right / n, 1 + _Z**2 / n
    middle = (share + _Z**2 / (2 * n)) / shrink
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / shrink
    # Exactly, where rounding would leave a crumb.
    return (middle - half if n_right > 0 else 0.0), (middle + half if n_right < n else 1.0)


def perplexity(log_likelihoods: Sequence[float]) -> float:
    """Exp of minus their mean."""
    return math.exp(min(-statistics.fmean(log_likelihoods), _LARGEST_EXPONENT))


def bootstrap_perplexity(
    log_likelihoods: Sequence[float], generator: torch.Generator
) -> tuple[float, Interval]:
    """Standard error and 95 % interval of a perplexity, from items drawn again and again."""
    values_N = torch.tensor(log_likelihoods, dtype=torch.float64)
    n, means = len(values_N), []
    for start in range(0, _RESAMPLES, max(1, _BLOCK_NUMBERS // n)):
        rows = min(max(1, _BLOCK_NUMBERS // n), _RESAMPLES - start)
        means.append(values_N[torch.randint(n, (rows, n), generator=generator)].mean(1))
    drawn = (-torch.cat(means)).clamp(max=_LARGEST_EXPONENT / 2).exp()  # its square is a number
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(drawn.std()), (low, high)
