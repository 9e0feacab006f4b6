"""The config with which a run goes on: its own, but for what has no part in the result.

Called by whoever resumes a run, on the command line and over HTTP. Pure. Invariant: all that
decides the result is as the run began with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from mulm.config import Frozen, load_config
from mulm.errors import ConflictError
from mulm.records import Run
from mulm.runs.kinds import SCHEMAS
from mulm.runs.standing import Standing

_FIXED = frozenset({"key_id", "input_file"})
"""Neither part of the result nor anybody's to change: who asks, and of what."""


def continued_config(run: Run, overrides: Sequence[str] = ()) -> Frozen:
    """With what a run goes on.

    Args:
        run: The run.
        overrides: Changes, as `--set` takes them.

    Raises:
        ConfigError, UnknownNameError: an override does not fit.
        ConflictError: an override would make it another run.
    """
    schema = SCHEMAS[run.kind]
    may_change = schema.NOT_IDENTITY - _FIXED
    config = load_config(schema, deepcopy(run.config), overrides)
    before = load_config(schema, deepcopy(run.config)).model_dump(mode="json")
    now = config.model_dump(mode="json")
    for key in sorted(now):
        if key not in may_change and before.get(key) != now[key]:
            raise ConflictError(
                f"{key}: {run.id} began with {before.get(key)!r}, not {now[key]!r}",
                hint=f"a resume may change {', '.join(sorted(may_change)) or 'nothing'}; the rest"
                " is another run: start it with its own command",
            )
    return config


def require_as_begun(found: Standing, config: Frozen) -> None:
    """What was acknowledged stays: a run under way takes no other settings.

    Raises:
        ConflictError: the run is living, and a setting that has no part in its result differs.
    """
    run = found.run
    if not found.is_living:
        return
    before = load_config(SCHEMAS[run.kind], deepcopy(run.config)).model_dump(mode="json")
    now = config.model_dump(mode="json")
    differing = [key for key in sorted(now) if before.get(key) != now[key]]
    if differing:
        told = "; ".join(f"{key}: {before.get(key)!r}, not {now[key]!r}" for key in differing)
        raise ConflictError(
            f"{run.id} is this run, and is under way with {told}",
            hint="pause it first, then resume it with what shall change",
            param=f"config.{differing[0]}",
        )
