"""What is told about a run: a row of a list, and the whole of it, as JSON-compatible values.

Called by `mulm runs ls|show`. Reads facts, the names of checkpoint folders and nothing else.
Invariant: what cannot be found any more, such as a removed dataset, is told as absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from mulm.errors import ConfigError, NotFoundError
from mulm.facts import Facts
from mulm.manifest import Kind
from mulm.records import Event
from mulm.refs import parse_ref
from mulm.runs.curve import STEP, curve, newest
from mulm.runs.kinds import name_of, references_of
from mulm.runs.standing import Standing

_CHECKPOINT = re.compile(r"step-([0-9]+)")
_BATCH = 1000


def listed(standing: Standing, facts: Facts) -> dict[str, Any]:
    """A row of the list of runs."""
    run = standing.run
    progress = facts.last_event(run.id, "progress")
    return {
        "run": run.id,
        "kind": run.kind,
        "name": name_of(run),
        "phase": run.phase,
        "is_living": standing.is_living,
        "progress": dict(progress.data) if progress else None,
        "error": run.error,
        "created_s": run.created_s,
        "updated_s": run.updated_s,
    }


def described(standing: Standing, facts: Facts, folder: Path) -> dict[str, Any]:
    """All of a run; `folder` is its own."""
    run = standing.run
    first = facts.events(run.id, limit=1, kinds=("started",))
    choice = facts.last_event(run.id, "choice")
    return listed(standing, facts) | {
        "result": run.result,
        "metrics": newest(curve(all_events(facts, run.id, "metric"))),
        "choice": dict(choice.data) if choice else None,
        "checkpoints": checkpoints(facts, run.id, folder / "checkpoints"),
        "parents": _parents(standing, facts),
        "made_by": _process(first[0] if first else None),
        "last_process": _process(facts.last_event(run.id, "started")),
        "job": standing.job.submission_id if standing.job else None,
        "folder": str(folder),
        "config": run.config,
    }


def all_events(facts: Facts, run_id: str, *kinds: str) -> Iterator[Event]:
    """All events of a run, of some kinds if any are named, read piece by piece."""
    after = 0
    while batch := facts.events(run_id, after, _BATCH, kinds):
        yield from batch
        after = batch[-1].seq


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the whole checkpoints in a folder, oldest first."""
    found = (_CHECKPOINT.fullmatch(path.name) for path in folder.glob("step-*"))
    return sorted(int(match.group(1)) for match in found if match)


def _process(started: Event | None) -> dict[str, Any] | None:
    """Who worked on the run: command, folder, process, job."""
    return dict(started.data) | {"started_s": started.time_s} if started else None


def checkpoints(facts: Facts, run_id: str, folder: Path) -> list[dict[str, Any]]:
    """Those of a run in a folder; the best is the last one that the run called so."""
    events = all_events(facts, run_id, "checkpoint")
    best = [event.data.get(STEP) for event in events if event.data.get("is_best")]
    return [{STEP: n, "is_best": best[-1:] == [n]} for n in checkpoint_steps(folder)]


def _parents(standing: Standing, facts: Facts) -> dict[str, dict[str, str | None]]:
    """What the run reads, by field: its reference and the id of the version, if it is there."""
    parents: dict[str, dict[str, str | None]] = {}
    for field, (kind, ref) in references_of(standing.run).items():
        try:
            found = facts.resolve(cast(Kind, kind), parse_ref(ref)).manifest_id
        except (NotFoundError, ConfigError):
            parents[field] = {"ref": ref, "id": None}
        else:
            parents[field] = {"ref": ref, "id": found}
    return parents
