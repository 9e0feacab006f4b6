"""Follow a run: show its events as they come, until it ends or its job dies.

Reads the ledger; never writes it. Invariant: the result of a run is what the ledger says, but
a job that died without a word is noticed through Ray's own status.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from jobs.progress import Progress
from mulm.errors import JobFailedError, NotFoundError, StoppedError
from mulm.facts import Facts
from mulm.records import RESTING, Run
from mulm.runs.standing import noted_error

_POLL_S = 0.2
_JOB_POLL_S = 1.0
_LOG_TAIL_LINES = 12


class JobWatch(Protocol):
    """What following asks about the job behind a run."""

    def has_ended(self) -> bool:
        """Whether the job's process is gone."""

    def log_tail(self, n_lines: int) -> str:
        """The last lines that it printed."""


def last_seq(facts: Facts, run_id: str) -> int:
    """The number of the newest event of a run, 0 before the first."""
    newest = facts.last_event(run_id)
    return newest.seq if newest else 0


def follow(
    run_id: str,
    after: int,
    facts: Facts,
    job: JobWatch,
    progress: Progress,
    sleep: Callable[[float], None] = time.sleep,
) -> Run:
    """Show all events after number `after`; returns the run when it has succeeded.

    Raises:
        MulmError: the run failed, with the class and hint that it failed with.
        StoppedError: it was cancelled or paused.
        JobFailedError: its process died without saying why.
    """
    polls_until_job_check = 0
    job_is_gone = False
    while True:
        events = facts.events(run_id, after)
        for event in events:
            after = event.seq
            progress.event(event.kind, event.data)
            if event.kind == "phase" and event.data["phase"] in RESTING:
                progress.clear()
                return _checked(facts.run(run_id))
        if events:
            continue
        if job_is_gone:
            return _result_or_death(run_id, facts, job)
        if polls_until_job_check <= 0:
            job_is_gone = job.has_ended()
            polls_until_job_check = round(_JOB_POLL_S / _POLL_S)
        polls_until_job_check -= 1
        if not job_is_gone:
            sleep(_POLL_S)


def known_run(facts: Facts, run_id: str) -> Run | None:
    """The run of that id, if the ledger has heard of it."""
    try:
        return facts.run(run_id)
    except NotFoundError:
        return None


def _checked(run: Run) -> Run:
    if run.phase == "succeeded":
        return run
    if run.phase == "paused":
        hint = f"`mulm runs resume {run.id}`, or the same command again, goes on where it was"
        raise StoppedError(f"{run.id} was paused", hint=hint)
    if run.phase == "cancelled":
        raise StoppedError(
            f"{run.id} was cancelled", hint="run the same command again: it goes on where it was"
        )
    raise noted_error(run)


def _result_or_death(run_id: str, facts: Facts, job: JobWatch) -> Run:
    """Who found the run finished, or was told to end before, adds no event; the killed neither."""
    run = known_run(facts, run_id)
    if run is not None and run.is_resting and run.phase != "failed":
        return _checked(run)
    raise _died(run_id, job)


def _died(run_id: str, job: JobWatch) -> JobFailedError:
    return JobFailedError(
        f"the process of {run_id} died without a result",
        hint="run the same command again: it goes on from the newest checkpoint."
        f" Its last words:\n{job.log_tail(_LOG_TAIL_LINES)}",
    )
