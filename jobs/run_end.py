"""How a run ends: what its error is in our words, and what the ledger is told.

Called by `jobs.entry`. Invariants: what was noted as a success, or was cancelled, stays so; a run
whose process was stopped by a signal may go on, so it is paused; a ledger that does not answer is
logged.
"""

from __future__ import annotations

import logging

from mulm.errors import MulmError, StoppedError
from mulm.facts import Facts

GOES_ON = "the same command goes on where it was"

_log = logging.getLogger(__name__)


def note_end(facts: Facts, run_id: str, error: BaseException) -> None:
    """Tell the ledger how work ended that did not end well."""
    ours = as_ours(error)
    described = {"code": ours.code, "message": ours.message, "hint": ours.hint}
    is_stop = isinstance(ours, StoppedError)
    try:
        phase = facts.run(run_id).phase
        if phase == "succeeded":
            return  # the signal came after that had been noted
        if phase == "cancelled" and not is_stop:
            text = f"while it was ending: {ours.message}"
            facts.append_events(run_id, [("log", {"text": text})])
        elif phase != "cancelled" and is_stop:
            facts.set_phase(run_id, "paused")
        elif phase != "cancelled":
            facts.set_phase(run_id, "failed", error=described)
    except MulmError as unreachable:
        _log.warning("the ledger did not take the end of the run: %s", unreachable.message)


def as_ours(error: BaseException) -> MulmError:
    """The error of our family that another one comes down to."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return StoppedError("stopped", hint=GOES_ON)
    return mulm_cause(error) or MulmError(f"{type(error).__name__}: {error}")


def mulm_cause(error: BaseException) -> MulmError | None:
    """The error of ours that a chain of wrapping errors goes back to, if there is one.

    Only what was wrapped on purpose counts: an error of ours that was merely being handled when
    another one came up (`__context__`) says nothing about that one.
    """
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        current = waiting.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        # Ray's RayTaskError passes for the class of its cause without being built like it.
        if isinstance(current, MulmError) and not hasattr(current, "cause"):
            return current
        waiting += [getattr(current, "cause", None), current.__cause__]
        waiting += list(getattr(current, "worker_failures", {}).values())
        waiting.append(getattr(current, "controller_failure", None))
    return None
