"""Going on with a run by its id: what its config was, where it was started, whether it is the same.

Called by `mulm runs resume`. Invariants: the run keeps its id and all of its config that decides
the result; a build or an evaluation whose files have changed is not gone on with under the old id.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from mulm.config import Frozen
from mulm.errors import ConflictError
from mulm.facts import Facts
from mulm.records import Run
from mulm.runs.continued import continued_config
from mulm.runs.identity import IDENTITIES, run_id_of
from mulm.runs.kinds import TRAIN
from mulm.store import Store

_DERIVED = re.compile(r"run_[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Continuation:
    """With what a run goes on."""

    run_id: str
    kind: str
    config: Frozen
    folder: Path
    """Relative paths of the config begin here."""


def continuation(
    run: Run, facts: Facts, store: Store, overrides: Sequence[str] = ()
) -> Continuation:
    """How to go on with a run.

    Raises:
        ConfigError, UnknownNameError: an override does not fit.
        ConflictError: an override would make it another run, or what it reads has changed.
    """
    config = continued_config(run, overrides)
    found = Continuation(run.id, run.kind, config, _folder(facts, run.id))
    _require_same_files(found, facts, store)
    return found


def _folder(facts: Facts, run_id: str) -> Path:
    started = facts.last_event(run_id, "started")
    noted = Path(str(started.data.get("folder"))) if started else Path.cwd()
    return noted if os.access(noted, os.X_OK) else Path.cwd()


def _require_same_files(found: Continuation, facts: Facts, store: Store) -> None:
    # A training run's checkpoints themselves say what they belong to.
    if found.kind == TRAIN or not _DERIVED.fullmatch(found.run_id):
        return
    with chdir(found.folder):
        values = IDENTITIES[found.kind](found.config, facts, store)
    if run_id_of(found.kind, found.config, values) != found.run_id:
        raise ConflictError(
            f"what {found.run_id} reads, or the code, has changed since it began",
            hint="start it again with its own command, from the folder where its files are",
        )
