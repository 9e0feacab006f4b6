"""Writes checkpoints in a thread, one at a time, while training goes on.

Used by the training loop on worker 0: the others wait for it in an all-reduce, with a deadline that
a large model on a slow disk would exceed. Invariants: what is written is a copy from one moment
between two steps; checkpoints appear in order, each after what was reported until then is durable;
no error of writing is lost; after `close` no thread touches the folder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mulm.model.checkpoint import prune_checkpoints, save_checkpoint
from mulm.train.best import BestCheckpoint
from mulm.train.context import TrainContext
from mulm.train.objectives.base import Objective
from mulm.train.settled import SettledConfig
from mulm.train.state import Snapshot

log = logging.getLogger(__name__)

Deliver = Callable[[Path, int, int | None], None]
"""See `TrainContext.deliver`."""


def _stays(checkpoint: Path, keep: int, spared_step: int | None) -> None:
    """The folder is where checkpoints belong."""


@dataclass(frozen=True, slots=True)
class Written:
    """A checkpoint that is on the disk, and whether it is better than all before it."""

    step: int
    is_best: bool


class CheckpointWriter:
    """The checkpoints of one run, of which the newest `keep` and the best stay.

    Without `best` none is judged.

    `flush` makes durable what the run has reported: a run that goes on from a checkpoint does not
    take the steps before it again, so it could not report them again. `deliver` brings each to
    where other machines find it.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        flush: Callable[[], None],
        best: BestCheckpoint | None = None,
        deliver: Deliver = _stays,
    ) -> None:
        self._folder, self._keep, self._flush, self._best = folder, keep, flush, best
        self._deliver = deliver
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[Written] | None = None

    @classmethod
    def of_run(
        cls, config: SettledConfig, context: TrainContext, objective: Objective[Any, Any]
    ) -> CheckpointWriter:
        """As the config says, knowing the best of the checkpoints that are there."""
        folder, best = checkpoint_folder(context), None
        if config.keep_best:
            best = BestCheckpoint.among(
                folder, objective.judged_by, higher_is_better=objective.higher_is_better
            )
        return cls(folder, config.keep_checkpoints, context.flush, best, context.deliver)

    def start(self, snapshot: Snapshot) -> Written | None:
        """Begin to write; waits for the one before and returns it, as `wait` does."""
        before = self.wait()
        self._pending = self._pool.submit(self._write, snapshot)
        return before

    def poll(self) -> Written | None:
        """A checkpoint that was finished since the last question, if any.

        Raises:
            NoSpaceError: the disk is full.
        """
        return self.wait() if self._pending and self._pending.done() else None

    def wait(self) -> Written | None:
        """Wait for what is being written, if anything is.

        Raises:
            NoSpaceError: the disk is full.
        """
        pending, self._pending = self._pending, None
        return pending.result() if pending else None

    def close(self) -> None:
        """Wait, and log what failed: another error ends the run already."""
        try:
            self.wait()
        except Exception as error:  # noqa: BLE001 it must not hide that other error
            log.warning("checkpoint not written folder=%s error=%s", self._folder, error)
        finally:
            self._pool.shutdown()

    def _write(self, snapshot: Snapshot) -> Written:
        self._flush()
        path = save_checkpoint(self._folder, snapshot.step, snapshot.tensors, snapshot.facts)
        is_best = self._best is not None and self._best.takes(snapshot.step, snapshot.judged)
        spared_step = self._best.step if self._best else None
        prune_checkpoints(self._folder, self._keep, spared_step)
        self._deliver(path, self._keep, spared_step)
        return Written(snapshot.step, is_best)


def checkpoint_folder(context: TrainContext) -> Path:
    """Where a run's checkpoints are."""
    return context.folder / "checkpoints"
