"""Shares: which rows of the global batch each worker takes, so that none waits for another.

Asked and told by the training loop. Workers begin with equal shares. Every `WINDOW_STEPS` steps
they tell each other how long a row takes them and compute the same new cut from the same numbers.
Invariants: the rows of a step are the same, whoever takes them, and every worker has one at least;
machines whose speeds differ by less than a tenth keep equal shares, so that their run repeats bit
for bit. Other cuts depend on time: such a run repeats up to the order of sums, unless it is told
not to balance.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import median

from mulm.train.agreement import gather
from mulm.train.context import TrainContext
from mulm.train.sync.base import Sync

WINDOW_STEPS = 16
UNEQUAL = 1.10
"""Speeds that differ by this factor, in two windows running, end equal shares."""
_WORTH = 1.03
"""A later cut is replaced where steps become so many times faster."""
_NEWEST = 0.5
"""Weight of the newest window in what a row takes."""


class Shares:
    """One worker's view, equal to the others' but for its own times."""

    def __init__(self, n_rows: int, context: TrainContext, *, is_balanced: bool) -> None:
        self._rank, self._n_workers = context.rank, context.world_size
        self._now_s = context.now_s
        self._is_balanced = is_balanced and self._n_workers > 1
        self._cut = equal(n_rows, self._n_workers)
        self._own_s: list[float] = []
        self._is_warm = False
        self._row_s: list[float] | None = None
        self._n_unequal = 0

    @property
    def own(self) -> tuple[int, int]:
        """This worker's rows, [start, stop) of each global batch."""
        start = sum(self._cut[: self._rank])
        return start, start + self._cut[self._rank]

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around the work on the own rows; that of the first step warms up and does not count."""
        started_s = self._now_s()
        yield
        if self._is_warm:
            self._own_s.append((self._now_s() - started_s) / self._cut[self._rank])
        self._is_warm = True

    def rebalance(self, sync: Sync) -> str:
        """After a step: cut anew if it is time and worth it; returns why, or nothing."""
        if not self._is_balanced or len(self._own_s) < WINDOW_STEPS:
            return ""
        # The median: somebody opens a browser for a moment.
        own_s, self._own_s = median(self._own_s), []
        newest = [row[0] for row in gather([own_s], sync, self._rank, self._n_workers)]
        before = self._row_s or newest
        self._row_s = [_NEWEST * a + (1 - _NEWEST) * b for a, b in zip(newest, before, strict=True)]
        return self._cut_anew(self._row_s)

    def _cut_anew(self, row_s: Sequence[float]) -> str:
        best = cut(sum(self._cut), row_s)
        if self._cut == equal(sum(self._cut), self._n_workers):
            self._n_unequal += 1 if max(row_s) >= UNEQUAL * min(row_s) else -self._n_unequal
            is_time = self._n_unequal >= 2
        else:
            is_time = step_s(self._cut, row_s) >= _WORTH * step_s(best, row_s)
        if not is_time or best == self._cut:
            return ""
        before, self._cut = self._cut, best
        slow = row_s.index(max(row_s))
        return (
            f"rows by worker are now {best}, before {before}: a row takes worker {slow}"
            f" {max(row_s) / min(row_s):.2f} times as long as the fastest"
        )


def equal(n_rows: int, n_workers: int) -> list[int]:
    """Rows by worker where all are as fast."""
    ends = [n_rows * n // n_workers for n in range(n_workers + 1)]
    return [stop - start for start, stop in pairwise(ends)]


def cut(n_rows: int, row_s: Sequence[float]) -> list[int]:
    """Rows by worker with which a step is over soonest; one each at least."""
    rows = [1] * len(row_s)
    next_end_s = [(2 * seconds, worker) for worker, seconds in enumerate(row_s)]
    heapq.heapify(next_end_s)
    for _ in range(n_rows - len(row_s)):
        end_s, worker = next_end_s[0]
        rows[worker] += 1
        heapq.heapreplace(next_end_s, (end_s + row_s[worker], worker))
    return rows


def step_s(rows: Sequence[int], row_s: Sequence[float]) -> float:
    """When the last worker is done."""
    return max(n * seconds for n, seconds in zip(rows, row_s, strict=True))
