"""Which of pause, resume and cancel a run allows as it stands.

Called by `actors.run_desk` and `jobs.run_resume`. Pure: each function says whether there is
something to do, or why it is impossible. Invariant: what was done already is no error.
"""

from __future__ import annotations

from mulm.errors import ConflictError
from mulm.records import Phase, Run
from mulm.runs.kinds import SCHEMAS
from mulm.runs.standing import Standing

UNDER_WAY: frozenset[Phase] = frozenset({"queued", "preparing", "running", "finalizing"})
UNENDED: frozenset[Phase] = UNDER_WAY | {"pausing", "paused"}

STOP_PHASES: frozenset[Phase] = frozenset({"pausing", "cancelled"})
"""What a process that works on a run finds in the ledger when it is to stop."""


def may_pause(standing: Standing) -> bool:
    """Whether its process is to be asked to pause; False where that was asked, or is done.

    Raises:
        ConflictError: the run has ended, or its process is only starting.
    """
    run = standing.run
    if run.phase in ("pausing", "paused"):
        return False
    if standing.is_starting:
        hint = "try again in a moment; `mulm runs cancel` works now"
        raise ConflictError(f"{run.id} is only starting: there is nothing to keep yet", hint=hint)
    if run.phase not in UNDER_WAY:
        raise ConflictError(f"{_ended(run)}: there is nothing to pause", hint=_hint(run))
    return True


def may_cancel(standing: Standing) -> bool:
    """Whether the run is to be ended; False where it was cancelled.

    Raises:
        ConflictError: it has succeeded or failed.
    """
    run = standing.run
    if run.phase == "cancelled":
        return False
    if run.phase in UNENDED or standing.is_lost:
        return True
    raise ConflictError(f"{_ended(run)}: there is nothing to cancel", hint=_hint(run))


def may_resume(standing: Standing, *, also_cancelled: bool = False) -> bool:
    """Whether a process is to be started; False where one works on the run.

    Raises:
        ConflictError: it has succeeded, its process is still ending, it was cancelled and that is
            not to be undone, or no command goes on with its kind.
    """
    run = standing.run
    if run.phase == "succeeded":
        raise ConflictError(f"{_ended(run)}: there is nothing to resume", hint=_hint(run))
    if run.kind not in SCHEMAS:
        raise ConflictError(
            f"{run.id} is a {run.kind} run, which cannot be resumed by its id",
            hint="run the command that made it again",
        )
    if standing.is_living and run.phase in UNDER_WAY:
        return False
    if standing.is_living:
        hint = "wait until its process has ended: `mulm runs logs -f` shows it"
        raise ConflictError(f"{run.id} is {run.phase}, and its process still ends", hint=hint)
    if run.phase == "cancelled" and not also_cancelled:
        raise ConflictError(f"{run.id} was cancelled", hint=_hint(run))
    return True


def _ended(run: Run) -> str:
    why = f" ({run.error['message']})" if run.error and run.error.get("message") else ""
    return f"{run.id} {'was' if run.phase == 'cancelled' else 'has'} {run.phase}{why}"


def _hint(run: Run) -> str:
    if run.phase == "succeeded":
        return f"`mulm runs show {run.id}` tells what it made"
    if run.phase == "cancelled":
        return f"`mulm runs resume {run.id} --cancelled`, or the command that made it, goes on"
    return f"`mulm runs resume {run.id}` goes on where it was"
