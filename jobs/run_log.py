"""The log of a run: its events in order, and on until it has ended.

Called by `mulm runs logs`. Reads only. Invariants: no event is shown twice, none is left out; a run
whose process died is not followed for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from actors.run_desk import RunDesk
from jobs.run_words import QUIET
from mulm.records import Event

_POLL_S = 0.3
_LOOK_AT_PROCESS_S = 1.5
_BATCH = 1000


def run_log(
    desk: RunDesk,
    run_id: str,
    limit: int | None,
    follow: bool,
    *,
    with_all: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Event]:
    """The events of a run.

    Args:
        desk: Of the runs.
        run_id: Which one.
        limit: Of those that are there, only so many of the newest.
        follow: Go on until no process works on the run and all that it said is told.
        with_all: Also the kinds of events that have verbs of their own.
        sleep: Waits some seconds.
    """
    told = [e for e in _after(desk, run_id, 0) if with_all or e.kind not in QUIET]
    yield from told if limit is None else told[max(0, len(told) - limit) :]
    after, is_over, waited_s = told[-1].seq if told else 0, not follow, _LOOK_AT_PROCESS_S
    while not is_over:
        # What came before the look is read after it: then nothing can be missed.
        if waited_s >= _LOOK_AT_PROCESS_S:
            is_over, waited_s = not desk.one(run_id).is_living, 0.0
        for event in _after(desk, run_id, after):
            after = event.seq
            if with_all or event.kind not in QUIET:
                yield event
        if not is_over:
            sleep(_POLL_S)
            waited_s += _POLL_S


def _after(desk: RunDesk, run_id: str, seq: int) -> Iterator[Event]:
    while batch := desk.facts.events(run_id, seq, _BATCH):
        yield from batch
        seq = batch[-1].seq
