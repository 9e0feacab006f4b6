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
from pathlib import Path

from mulm.model.checkpoint import prune_checkpoints, save_checkpoint
from mulm.train.state import Snapshot

log = logging.getLogger(__name__)


class CheckpointWriter:
    """The checkpoints of one run, of which the newest `keep` stay.

    `flush` makes durable what the run has reported: a run that goes on from a checkpoint does not
    take the steps before it again, so it could not report them again.
    """

    def __init__(self, folder: Path, keep: int, flush: Callable[[], None]) -> None:
        self._folder, self._keep, self._flush = folder, keep, flush
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[int] | None = None

    def start(self, snapshot: Snapshot) -> int | None:
        """Begin to write; waits for the one before and returns its step, as `wait` does."""
        before = self.wait()
        self._pending = self._pool.submit(self._write, snapshot)
        return before

    def poll(self) -> int | None:
        """The step of a checkpoint that was finished since the last question, if any.

        Raises:
            NoSpaceError: the disk is full.
        """
        return self.wait() if self._pending and self._pending.done() else None

    def wait(self) -> int | None:
        """Wait for what is being written; its step, or None where nothing is.

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

    def _write(self, snapshot: Snapshot) -> int:
        self._flush()
        save_checkpoint(self._folder, snapshot.step, snapshot.tensors, snapshot.facts)
        prune_checkpoints(self._folder, self._keep)
        return snapshot.step
