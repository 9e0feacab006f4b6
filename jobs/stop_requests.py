"""Requests to stop that stand in the ledger, brought to the process that works on a run.

Used by `jobs.entry`: `mulm runs pause` and `cancel` set a phase, and here it becomes the signal
that Ctrl-C and `ray job stop` send too, so that there is one way to stop. Invariants: the signal is
sent once; after the block none is sent.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mulm.facts import Facts
from mulm.runs.transitions import STOP_PHASES

_log = logging.getLogger(__name__)

_POLL_S = 0.5


@contextmanager
def stopped_on_request(facts: Facts, run_id: str, poll_s: float = _POLL_S) -> Iterator[None]:
    """Send this process SIGINT when the run is to pause or to end.

    Python runs handlers in the main thread, so in another one nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_over = threading.Event()
    thread = threading.Thread(
        target=_watch, args=(facts, run_id, is_over, poll_s), name="stop-requests", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _watch(facts: Facts, run_id: str, is_over: threading.Event, poll_s: float) -> None:
    while not is_over.wait(poll_s):
        try:
            phase = facts.run(run_id).phase
        except Exception as error:  # noqa: BLE001 a thread's border: the next look may succeed
            _log.debug("the ledger does not answer run=%s error=%s", run_id, error)
            continue
        if phase in STOP_PHASES and not is_over.is_set():
            _log.info("asked to stop run=%s phase=%s", run_id, phase)
            os.kill(os.getpid(), signal.SIGINT)
            return
