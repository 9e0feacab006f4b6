"""A run's course: which rows come next on this worker, and how far the run is.

Asked by the training loop. Alone or in step, a run goes from step to step. On islands it goes along
a line of rows of which each island is given pieces: an inner step takes `granule` rows, a step of
the run counts when as many rows are done as a global batch has, by whomever, so that schedules,
metrics and checkpoints follow what all have learned from. Invariants: every worker of an island
takes the same course; rows come in the order that dataset and seed give.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

from mulm.errors import ConfigError, StoppedError
from mulm.train.context import TrainContext
from mulm.train.settled import SettledConfig
from mulm.train.sync.base import Sync
from mulm.train.sync.diloco import DilocoSync
from mulm.train.sync.round_plan import inner_rows
from mulm.train.sync.rounds import Lease

WARMUP_STEPS = 20
"""Inner steps over which a joiner's learning rate rises: its optimizer has seen nothing yet."""
_WAIT_S = 0.05
_WAITS, _IS_OVER = -1, -2
"""In the place of a row."""


class Course(Protocol):
    """What the loop asks, on every worker alike."""

    @property
    def is_leading(self) -> bool:
        """Whether this worker's island judges, reports and writes checkpoints."""

    @property
    def n_rows(self) -> int:
        """Rows of one inner step, which the workers of an island share."""

    def goes_on(self, step: int) -> bool:
        """Whether there is more to do after so many steps.

        Raises:
            StoppedError: someone asked to stop while there was nothing to do.
        """

    def rows(self, step: int, share: tuple[int, int]) -> tuple[int, int, int]:
        """A global batch, and rows [start, stop) of it: the `share` of an inner step's rows."""

    def after(self, step: int) -> int:
        """The steps that are done, now that one more inner step was taken after `step`."""

    def warmth(self) -> float:
        """The factor on the learning rate of a worker that came late."""

    def end(self, step: int) -> int:
        """All rows are done: bring weights together; the steps that are done."""

    def stop(self) -> None:
        """Somebody asked to stop between two steps: hand in what was learned."""

    def close(self) -> None:
        """This worker goes, whatever the reason."""


class StepCourse:
    """Alone or in step with the other workers: a global batch a step."""

    is_leading = True

    def __init__(self, steps: int, n_rows: int) -> None:
        self._steps, self.n_rows = steps, n_rows

    def goes_on(self, step: int) -> bool:
        """Up to the last."""
        return step < self._steps

    def rows(self, step: int, share: tuple[int, int]) -> tuple[int, int, int]:
        """Of the batch of that step."""
        return step, *share

    def after(self, step: int) -> int:
        """One more."""
        return step + 1

    def warmth(self) -> float:
        """Nobody comes late."""
        return 1.0

    def end(self, step: int) -> int:
        """Weights are together."""
        return step

    def stop(self) -> None:
        """All have stopped at the same step."""

    def close(self) -> None:
        """Nobody waits."""


class LeaseCourse:
    """On an island: rows that the aggregator leases.

    Worker 0 asks, and tells the island's other workers in one sum before each inner step.

    Args:
        granule: Rows of an inner step, a divisor of the rows of a global batch.
        is_fresh: Whether the optimizer begins from nothing.
    """

    def __init__(
        self,
        sync: DilocoSync,
        context: TrainContext,
        config: SettledConfig,
        granule: int,
        *,
        is_fresh: bool,
    ) -> None:
        self._sync, self._context = sync, context
        self._steps, self._batch_rows = config.steps, config.n_rows
        self.n_rows, self.is_leading = granule, False
        self._is_fresh, self._n_warm = is_fresh, 0
        self._pieces: deque[int] = deque()
        self._lease = Lease(0, 0, 0, 0)
        self._n_done = self._n_since = self._n_joins = 0
        self._row, self._n_of_all = 0, 0
        self._asked_s, self._n_wanted = context.now_s(), 2 * granule

    def goes_on(self, step: int) -> bool:  # noqa: ARG002
        """Until all rows are done: an island that has none waits, as others may leave theirs."""
        while True:
            self._row = self._agreed(self._next() if self._sync.island else 0)
            if self._row != _WAITS:
                return self._row != _IS_OVER
            self._sync.poll()
            time.sleep(_WAIT_S)

    def rows(self, step: int, share: tuple[int, int]) -> tuple[int, int, int]:  # noqa: ARG002
        """Of the batch that the leased rows are part of."""
        batch, start = divmod(self._row, self._batch_rows)
        return batch, start + share[0], start + share[1]

    def after(self, step: int) -> int:
        """As many as all islands' rows make, as far as this one knows; the last is for `end`."""
        self._n_warm += 1
        if self._sync.island and self._n_joins == self._sync.island.n_joins:
            self._n_done += self.n_rows
            self._n_since += self.n_rows
        return min(max(step, self._n_of_all // self._batch_rows), self._steps - 1)

    def warmth(self) -> float:
        """Rises from nothing where others have gone on before."""
        if not self._is_fresh:
            return 1.0
        return min(1.0, (self._n_warm + 1) / WARMUP_STEPS)

    def end(self, step: int) -> int:  # noqa: ARG002
        """The last exchange."""
        self._sync.finish()
        return self._steps

    def stop(self) -> None:
        """The others are given what their rows have taught this island."""
        self._sync.hand_in()

    def close(self) -> None:
        """The others wait no more, and have what is left of the rows."""
        self._sync.close(self._n_done)

    def _next(self) -> int:
        """The first of the next rows, on worker 0."""
        island = self._sync.island
        assert island is not None
        if self._n_joins != island.n_joins:  # what was leased before is others'
            self._n_joins = island.n_joins
            self._pieces.clear()
            self._n_done = self._n_since = 0
        if not self._pieces and not island.is_out:
            self._ask()
        if self._pieces:
            return self._pieces.popleft()
        return _IS_OVER if self._lease.is_complete else _WAITS

    def _ask(self) -> None:
        """For the rows of about two rounds, by this island's speed since it asked last."""
        island, now_s = self._sync.island, self._context.now_s()
        assert island is not None
        if self._n_since:
            rows_per_s = self._n_since / max(now_s - self._asked_s, 1e-6)
            self._n_wanted = max(self.n_rows, int(2 * self._sync.round_s * rows_per_s))
        lease = island.lease(self._n_wanted, self._n_done)
        if lease is None:
            return
        if self._lease.line == 0 and lease.n_done == 0:
            self._is_fresh = False  # all begin together
        self._lease, self._asked_s, self._n_since = lease, now_s, 0
        self._pieces.extend(range(lease.start, lease.stop, self.n_rows))

    def _agreed(self, row: int) -> int:
        """What worker 0 says, on all workers of the island."""
        own = [0.0] * 5
        if self._sync.island:
            lease = self._lease
            leads = lease.leader == self._sync.island.name
            n_of_all = lease.n_done + self._n_since * lease.n_islands
            is_stopping = row == _WAITS and self._context.should_stop()
            own = [row, n_of_all, leads, self._is_fresh, is_stopping]
        told = self._sync.sum_values(list(map(float, own)))
        row, self._n_of_all = int(told[0]), int(told[1])
        self.is_leading, self._is_fresh, is_stopping = (bool(flag) for flag in told[2:])
        if is_stopping:
            raise StoppedError(
                "training stopped while the other islands had the last rows",
                hint="run the same command again to go on from there",
            )
        return row


def choose_course(
    config: SettledConfig, context: TrainContext, sync: Sync, *, is_resumed: bool
) -> Course:
    """The one that goes with the strategy."""
    if not isinstance(sync, DilocoSync):
        return StepCourse(config.steps, config.n_rows)
    assert context.outer is not None
    granule = inner_rows(config.n_rows, context.outer.n_islands)
    if granule < context.world_size:
        raise ConfigError(
            f"an island of {context.world_size} workers has {granule} rows in a step",
            hint="raise batch_tokens, so that every worker has a row",
        )
    return LeaseCourse(sync, context, config, granule, is_fresh=not is_resumed)
