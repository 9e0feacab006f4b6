"""What a token of islands is worth, beside one of workers in step.

Asked by `ways`. Pure: between the rows that were measured it follows a straight line, and it never
says more than these do. Invariants: more steps between two exchanges, or a slower island, are never
worth more; of more steps than were measured nothing is known. The rows are those of
docs/synchronisation.md, and `python -m benchmarks.sync_loss` measures them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

Points = Sequence[tuple[float, float]]

BY_STEPS: Points = ((8, 0.875), (20, 0.85), (40, 0.745), (80, 0.66))
"""Of two equal islands, by the inner steps between two exchanges of the same weights.

With 200 a pair learned no more than one of them alone, so that row is left out.
"""
BY_SLOWNESS: Points = ((1, 1.0), (2, 0.965), (4, 0.913))
"""The part of it that is left where one takes so many times as long for a step; 20 inner steps.

One eight times as slow was measured too, and lost less: that is the noise of a seed.
"""
MOST_STEPS = BY_STEPS[-1][0]


def worth(steps: float, slowness: float) -> float | None:
    """Tokens in step that one token of islands is worth.

    Args:
        steps: That the fastest island takes between two exchanges of the same weights.
        slowness: How many times as long as the fastest's a step of the slowest takes.

    Returns:
        None where so many steps were not measured.
    """
    if steps > MOST_STEPS:
        return None
    return _on_line(BY_STEPS, steps) * _on_line(BY_SLOWNESS, slowness)


def _on_line(points: Points, x: float) -> float:
    """Outside the points what the nearest has."""
    place = bisect_left([at for at, _ in points], x)
    if place == 0:
        return points[0][1]
    if place == len(points):
        return points[-1][1]
    (x0, y0), (x1, y1) = points[place - 1 : place + 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
