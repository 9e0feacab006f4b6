"""Shows a run's events while this very process works on it.

Used by `jobs.entry` where nobody else follows the run: a job that `ray job submit` started, whose
output is all that its user sees. Invariant: the work neither waits for the narrator nor fails
with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayError

from jobs.follow import known_run, last_seq
from jobs.progress import Progress
from mulm.errors import MulmError
from mulm.facts import Facts

_log = logging.getLogger(__name__)

_POLL_S = 1.0


@contextmanager
def narrated(
    facts: Facts, run_id: str, progress: Progress, poll_s: float = _POLL_S
) -> Iterator[None]:
    """Show what is added to the run's events during the block."""
    after = last_seq(facts, run_id) if known_run(facts, run_id) else 0
    is_over = threading.Event()
    thread = threading.Thread(
        target=_narrate,
        args=(facts, run_id, after, progress, is_over, poll_s),
        name="narrator",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        progress.clear()


def _narrate(
    facts: Facts,
    run_id: str,
    after: int,
    progress: Progress,
    is_over: threading.Event,
    poll_s: float,
) -> None:
    has_ended = False
    while not has_ended:
        has_ended = is_over.wait(poll_s)  # what came last is shown too
        try:
            for event in facts.events(run_id, after) if known_run(facts, run_id) else ():
                after = event.seq
                progress.event(event.kind, event.data)
        except (RayError, MulmError) as error:
            _log.warning("events are not shown run=%s error=%s", run_id, error)
