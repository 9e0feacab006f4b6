"""What a step of streams costs by its rows: a line through what was seen lately.

Kept by `mulm.engine.speculation`. Invariant: while all steps were alike nothing is claimed about
others, so that what does not pay is tried again when memory has faded.
"""

from __future__ import annotations

_MEMORY = 0.98
"""What is left of an observation after one more."""

_LEAST_SPREAD = 0.01
"""Of the rows seen, as a share of their mean squared, below which they count as alike."""


class StepCost:
    """So many seconds, and so many for each row."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def learn(self, n_rows: int, seconds: float) -> None:
        """A step had so many rows, and took so long."""
        self._n = self._n * _MEMORY + 1.0
        self._x = self._x * _MEMORY + n_rows
        self._y = self._y * _MEMORY + seconds
        self._xx = self._xx * _MEMORY + n_rows * n_rows
        self._xy = self._xy * _MEMORY + n_rows * seconds

    def seconds(self, n_rows: int) -> float | None:
        """What a step of so many rows takes; None where that is not known."""
        spread = self._n * self._xx - self._x * self._x
        if spread <= _LEAST_SPREAD * self._x * self._x:
            return None
        slope = max(0.0, (self._n * self._xy - self._x * self._y) / spread)
        return max(0.0, (self._y - slope * self._x) / self._n) + slope * n_rows

    def pays(self, n_rows: int, n_more: int, n_expected: float) -> bool:
        """Whether so many more rows bring tokens faster than the step without them."""
        without, with_more = self.seconds(n_rows), self.seconds(n_rows + n_more)
        if without is None or with_more is None:
            return True
        return (n_rows + n_expected) * without > n_rows * with_more
