"""Carries a run's events to the ledger in a thread of its own, and a stop request back.

Made by worker 0 of a training run. Invariants: events arrive in the order in which they were
added, each at least once; nobody waits for the ledger longer than he says; what the ledger does
not take stays in line, until `close` gives up and says how much was lost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from ray.exceptions import RayError

from mulm.errors import MulmError
from mulm.facts import Facts
from mulm.runs.transitions import STOP_PHASES

log = logging.getLogger(__name__)

EVENT_INTERVAL_S = 0.5
CLOSE_TIMEOUT_S = 20.0


class EventSender:
    """Sends every `interval_s`, or when someone waits for it."""

    def __init__(self, facts: Facts, run_id: str, interval_s: float = EVENT_INTERVAL_S) -> None:
        self._facts, self._run_id, self._interval_s = facts, run_id, interval_s
        self._waiting: list[tuple[str, Mapping[str, Any]]] = []
        self._n_sent = 0
        self._changed = threading.Condition()
        self._is_wanted = False
        self._is_closing = False
        self._is_stop_requested = threading.Event()
        self._thread = threading.Thread(target=self._work, name="events", daemon=True)
        self._thread.start()

    @property
    def is_stop_requested(self) -> bool:
        """Whether the run's phase says that it should stop."""
        return self._is_stop_requested.is_set()

    def add(self, kind: str, data: Mapping[str, Any]) -> None:
        """Note an event; returns at once."""
        with self._changed:
            self._waiting.append((kind, data))

    def flush(self, timeout_s: float) -> bool:
        """Have what was added until now sent; whether the ledger took it within `timeout_s`."""
        with self._changed:
            wanted = self._n_sent + len(self._waiting)
            self._is_wanted = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._n_sent >= wanted, timeout_s)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Send the rest, with a deadline, and end the thread."""
        if not self.flush(timeout_s):
            log.error("events lost run=%s count=%d", self._run_id, len(self._waiting))
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(self._interval_s)

    def _work(self) -> None:
        while not self._is_closing:
            self._send()
            self._look_for_stop()
            with self._changed:
                self._changed.wait_for(
                    lambda: self._is_wanted or self._is_closing, self._interval_s
                )
                self._is_wanted = False

    def _send(self) -> None:
        """Events leave the line when the ledger has them: a failed call is made again."""
        with self._changed:
            events = list(self._waiting)
        if not events:
            return
        try:
            self._facts.append_events(self._run_id, events)
        except (RayError, MulmError) as error:
            log.warning("events wait for the ledger run=%s error=%s", self._run_id, error)
            return
        with self._changed:
            del self._waiting[: len(events)]
            self._n_sent += len(events)
            self._changed.notify_all()

    def _look_for_stop(self) -> None:
        try:
            phase = self._facts.run(self._run_id).phase
        except (RayError, MulmError) as error:
            log.warning("the ledger does not answer run=%s error=%s", self._run_id, error)
            return
        if phase in STOP_PHASES:
            self._is_stop_requested.set()
