"""Workers that a run in step loses: how often it is worth starting again.

Used by `jobs.train`. Invariants: an error of ours is final, since the same run meets it again; what
was lost before the newest checkpoint was made is forgiven; the run's log says each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from actors.train_context import WorkerOutcome
from jobs.entry import JobContext
from jobs.room import ROOM_TIMEOUT_S
from mulm.checkpoint_files import checkpoints, step_of
from mulm.errors import JobFailedError, MulmError, StoppedError
from mulm.runs.transitions import STOP_PHASES

MAX_RESTARTS = 3
"""Without a newer checkpoint in between."""
MAX_LEAVES = 100
"""Likewise, of machines that leave or come: nobody has so many."""
PLACE_S = 15
"""How long Ray may take to give a group the room that there was a moment ago."""

After = Literal["nothing", "loss", "leave"]
"""What came before a start: workers died, or stopped so that other machines take part."""


def fit_again_if_lost(fit: Callable[[After], WorkerOutcome], context: JobContext) -> WorkerOutcome:
    """Start the group again after it has lost workers, or its machines are to be other ones.

    Ray Train would also do so after an error of ours, which the same run meets again: a full disk,
    a damaged file. Those are final.

    Raises:
        JobFailedError: `MAX_RESTARTS` starts were in vain.
    """
    losses = Losses(context)
    after: After = "nothing"
    while True:
        try:
            outcome = fit(after)
        except JobFailedError as error:
            if _is_unplaced(error):
                losses.unplaced(error)
                continue
            losses.count(error)
            after = "loss"
        else:
            if not _has_left(outcome, context):
                return outcome
            assert outcome.error is not None
            losses.leave(outcome.error)
            after = "leave"


@dataclass(slots=True)
class Losses:
    """Of one run."""

    context: JobContext
    n_in_vain: int = 0
    n_left: int = 0
    n_unplaced: int = 0
    step: int = 0
    """Of the newest checkpoint when workers were lost or left last."""

    def count(self, error: JobFailedError) -> None:
        """One more. Raises it where starting again is not worth it."""
        self._look()
        self.n_in_vain += 1
        if self.n_in_vain > MAX_RESTARTS:
            raise error
        again = f"starting again ({self.n_in_vain} of {MAX_RESTARTS})"
        self.context.emit("log", text=f"{error.message}; {again}")

    def leave(self, error: MulmError) -> None:
        """Workers stopped with a checkpoint. Raises the error where that never ends."""
        self._look()
        self.n_left += 1
        if self.n_left > MAX_LEAVES:
            raise error
        text = f"{error.message} for machines that leave or come"
        self.context.emit("log", text=f"{text}; going on with those that are there")

    def unplaced(self, error: JobFailedError) -> None:
        """Somebody else took the room: nobody was lost. Raises it after a day of that."""
        self.n_unplaced += 1
        if self.n_unplaced > ROOM_TIMEOUT_S / PLACE_S:
            raise error
        if self.n_unplaced == 1:
            self.context.emit("log", text="the room for workers was taken meanwhile")

    def _look(self) -> None:
        """What came before a newer checkpoint is forgiven."""
        step = newest_step(self.context)
        if step > self.step:
            self.n_in_vain = self.n_left = 0
        self.step = step


def newest_step(context: JobContext) -> int:
    """Of the newest checkpoint of a run; 0 where there is none."""
    folder = context.home.run(context.run_id) / "checkpoints"
    return max((step_of(path) for path in checkpoints(folder)), default=0)


def _is_unplaced(error: JobFailedError) -> bool:
    """Whether Ray gave up placing the group."""
    failure = getattr(error.__cause__, "controller_failure", None)
    return isinstance(failure, WorkerGroupStartupTimeoutError)


def _has_left(outcome: WorkerOutcome, context: JobContext) -> bool:
    """Whether the group stopped though nobody asked the run to."""
    if not isinstance(outcome.error, StoppedError):
        return False
    return context.facts.run(context.run_id).phase not in STOP_PHASES
