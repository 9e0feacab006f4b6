"""Brings a worker's checkpoints to the head beside its training: one on its way, one waiting.

Made by `actors.train_context` where the worker's machine has a home of its own. Invariants: a save
never waits for a line; of those that wait the newest goes, and with it the best, where the head has
that not yet; what came damaged is sent again, and what cannot be brought is told; an error that
would meet every later one too, such as a full disk of the head, is raised at the next save or at
the end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mulm.checkpoint_files import step_of
from mulm.errors import CorruptError, DeadlineError, MulmError, NotRunningError

log = logging.getLogger(__name__)

TRIES = 3
"""Of a checkpoint that comes damaged."""
FINISH_S = 600.0
"""How long the last one may take when training has ended."""

Send = Callable[[Path, int, int | None], None]
"""See `Courier.send_checkpoint`."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Parcel:
    path: Path
    keep: int
    spared_step: int | None
    say: Say


class Delivery:
    """The way of one run's checkpoints to the head, from one worker."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._changed = threading.Condition()
        self._waiting: _Parcel | None = None
        self._is_busy = False
        self._error: MulmError | None = None
        self._sent: set[int] = set()
        self._thread: threading.Thread | None = None

    def add(self, path: Path, keep: int, spared_step: int | None, say: Say) -> None:
        """Have one brought, in the place of one that still waits; returns at once.

        Args:
            path: The checkpoint.
            keep: How many of the newest stay on the head.
            spared_step: The best, which stays too.
            say: Where is told what was not brought.

        Raises:
            MulmError: an earlier one met what later ones would meet too.
        """
        with self._changed:
            self._raise_error()
            self._waiting = _Parcel(path, keep, spared_step, say)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)
                self._thread.start()

    def finish(self, timeout_s: float = FINISH_S) -> bool:
        """Wait for what is on its way; returns whether all of it has arrived or was told.

        Raises:
            MulmError: as `add`.
        """
        with self._changed:
            is_done = self._changed.wait_for(
                lambda: self._waiting is None and not self._is_busy, timeout_s
            )
            self._raise_error()
        return is_done

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error:
            raise error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None)
                parcel, self._waiting, self._is_busy = self._waiting, None, True
            assert parcel is not None
            error: MulmError | None = None
            try:
                self._bring_with_best(parcel)
            except MulmError as met:
                error = met
            except Exception as met:
                log.exception("a checkpoint was not brought to the head path=%s", parcel.path)
                error = MulmError(f"{parcel.path.name} was not brought to the head: {met}")
            with self._changed:
                self._is_busy, self._error = False, error
                self._changed.notify_all()

    def _bring_with_best(self, parcel: _Parcel) -> None:
        step = parcel.spared_step
        if step is not None and step not in self._sent and step != step_of(parcel.path):
            best = parcel.path.with_name(f"step-{step:08d}")
            if best.exists():  # it waited, and a newer one took its place
                self._bring(best, parcel)
        self._bring(parcel.path, parcel)

    def _bring(self, path: Path, parcel: _Parcel) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                self._send(path, parcel.keep, parcel.spared_step)
            except CorruptError as error:
                if not path.exists():
                    return  # it was replaced before it could be opened: a newer one waits
                log.warning("sent in vain path=%s attempt=%d reason=%s", path, attempt, error)
                reason = error.message
            except (DeadlineError, NotRunningError) as error:
                reason = error.message
                break
            else:
                self._sent.add(step_of(path))
                return
        parcel.say(f"{path.name} is on this worker's machine alone: {reason}")
