"""How a run stands: what the ledger says of it, held against what is seen of its process.

Called by `actors.run_desk`. Pure. Invariant: a run whose process died without a note is shown as
failed, and one whose process has only been submitted as queued, whatever the ledger says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from mulm.errors import JobFailedError, MulmError, error_classes
from mulm.records import Run

_HINT = "`mulm runs resume {}`, or the same command again, goes on from what was finished"


class Job(Protocol):
    """What is asked about a Ray job."""

    @property
    def submission_id(self) -> str:
        """Ray's name for it."""

    @property
    def message(self) -> str:
        """What Ray says about its end."""

    @property
    def started_s(self) -> float:
        """When it was submitted, in seconds since 1970."""

    @property
    def is_living(self) -> bool:
        """Whether it has not ended."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A run as it is."""

    run: Run
    is_living: bool
    """Whether a process works on it, is about to, or is still ending."""
    is_starting: bool = False
    """Whether its process has not come to the point where it can be asked to stop."""
    is_lost: bool = False
    """Whether its process died without a note; the ledger may still say "running"."""
    job: Job | None = None


def standing(run: Run, *, is_held: bool, job: Job | None) -> Standing:
    """Judge a run.

    Args:
        run: As the ledger has it.
        is_held: Whether a process of this machine holds the run's lock.
        job: The newest job of it in the running cluster, if there is one.
    """
    if is_held:
        return Standing(run, is_living=True, job=job)
    if job is not None and job.is_living:
        # Between its submission and its first note, or between its last note and its end.
        is_before = job.started_s >= run.updated_s
        if is_before and (run.is_resting or run.phase == "queued"):
            waiting = replace(run, phase="queued", error=None)
            return Standing(waiting, is_living=True, is_starting=True, job=job)
        return Standing(run, is_living=True, job=job)
    if run.is_resting:
        return Standing(run, is_living=False, job=job)
    error = lost_error(run.id, job)
    told = {"code": error.code, "message": error.message, "hint": error.hint}
    lost = replace(run, phase="failed", error=told)
    return Standing(lost, is_living=False, is_lost=True, job=job)


def lost_error(run_id: str, job: Job | None) -> JobFailedError:
    """Why a run without a living process has no end of its own."""
    why = job.message.partition(",")[0].strip() if job else ""  # what follows are lines of its log
    text = f"its process died without a word: {why}".rstrip(": ")
    return JobFailedError(text, hint=_HINT.format(run_id))


def noted_error(run: Run) -> MulmError:
    """What a run failed with, as the error that was raised in its process."""
    noted = run.error or {}
    classes = {cls.code: cls for cls in error_classes()}
    kind = classes.get(str(noted.get("code")), MulmError)
    return kind(str(noted.get("message", f"{run.id} failed")), hint=str(noted.get("hint", "")))
