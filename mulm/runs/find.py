"""Which run a person means: by its id, the beginning of one, or what it is called.

Called by `actors.run_desk`. Pure. Invariant: a text means one run or is an error that names what
could have been meant; a model's name means the newest training run of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from mulm.errors import ConfigError, NotFoundError, nearest
from mulm.records import Run
from mulm.runs.kinds import TRAIN, name_of

_PREFIX = "run_"
_SHOWN = 5


def find_run(text: str, runs: Sequence[Run]) -> Run:
    """The run among `runs`, which are in the order newest first.

    Args:
        text: `run_3f2a9c0d1e2b`, `run_3f`, `3f`, `demo` (its newest training run), or `demo@2`.
        runs: All that there are.

    Raises:
        NotFoundError: no run is meant.
        ConfigError: several ids begin with it.
    """
    for run in runs:
        if run.id == text:
            return run
    for run in runs:
        if run.kind == TRAIN and text in (name_of(run), (run.result or {}).get("model")):
            return run
    found = [run for run in runs if text and run.id.startswith((text, _PREFIX + text))]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(run.id for run in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ConfigError(
            f"the ids of {len(found)} runs begin with {text!r}", hint=f"write more: {some}{more}"
        )
    names = {name_of(run) for run in runs if run.kind == TRAIN} - {""}
    known = names | {run.id for run in runs}
    close = nearest(text, known) if known else ""
    listed = "`mulm runs ls` lists them" if runs else "there are none yet"
    hint = f"{close} {listed}" if close.startswith("did you mean") else listed
    if any(name_of(run) == text for run in runs):
        hint = f"only trainings are found by name; {listed}, with the id of {text!r}"
    raise NotFoundError(f"no run {text!r}", hint=hint)
