"""A backup of the application at work, and what comes back of it in another home.

Invariants: all that was acknowledged before the backup began is in it; whatever its database names
is there with the right bytes; the copy opens, and a run in it can go on.
"""

from __future__ import annotations

import hashlib
import io
import time
from random import Random
from typing import get_args

from benchmarks.chaos.callers import Callers
from benchmarks.chaos.case import Case, Outcome
from benchmarks.chaos.training import submit, wait_for_end, wait_for_step
from benchmarks.chaos.witness import Witness
from benchmarks.chaos.world import World
from jobs.backup import back_up
from jobs.progress import Progress
from jobs.restore import restore
from mulm.damage import verify
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.manifest import Kind
from mulm.model.checkpoint import newest_checkpoint
from mulm.store import Store

_N_BACKUPS = 3
_PATIENCE_S = 120.0
_QUIET = Progress(io.StringIO())


def back_up_under_load(world: World, draw: Random, outcome: Outcome) -> None:
    """Back up some times while clients ask and write and a run trains, and restore each."""
    run_id = f"run_kept{draw.randrange(16**8):08x}"
    submit(world, run_id)
    wait_for_step(world, run_id, 15)
    with Callers(world) as callers, Witness(world, draw, pause_s=0.02) as witness:
        callers.wait_for_answers(time.monotonic(), _PATIENCE_S)
        for number in range(_N_BACKUPS):
            _compare_one(world, witness, run_id, f"{run_id}-{number}", outcome)
            witness.wait_for_more(3, _PATIENCE_S)
    wait_for_end(world, run_id)
    outcome.seen.update(backups=_N_BACKUPS, acknowledged=witness.n_acknowledged,
                        answers=dict(callers.count()))  # fmt: skip
    outcome.wrong += callers.unclean(())[:5]


def _compare_one(world: World, witness: Witness, run_id: str, name: str, outcome: Outcome) -> None:
    files, keys = dict(witness.files), set(witness.keys)
    target = world.home.root.parent / f"{name}.tar"
    begun_s = time.monotonic()
    back_up(world.home, target, _QUIET)
    outcome.seen["backup_s"] = round(time.monotonic() - begun_s, 2)
    copy = Home(world.home.root.parent / name)
    restore(copy, target, _QUIET)
    store = Store(copy.store)
    with Ledger(copy.ledger) as ledger:
        ids = [v.manifest_id for kind in get_args(Kind) for v in ledger.versions(kind)]
        known = {file.id: file.sha256 for file in ledger.files()}
        gone = keys - {key.id for key in ledger.valid_keys()} - witness.revoked - witness.unsure
        n_events = len(ledger.events(run_id))
    outcome.require(not verify(store, ids), "a version in the backup is damaged")
    outcome.require(not gone, f"keys that were acknowledged are not in it: {sorted(gone)[:3]}")
    lost = [file for file in files if file not in known]
    outcome.require(not lost, f"files that were acknowledged are not in it: {lost[:3]}")
    for sha256 in known.values():
        path = store.root / "blobs" / sha256[:2] / sha256
        outcome.require(_sha256(path.read_bytes()) == sha256, f"other bytes: {sha256}")
    outcome.require(n_events > 0, "the run's events are not in it")
    outcome.require(
        newest_checkpoint(copy.run(run_id) / "checkpoints") is not None, "no checkpoint"
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


CASES = [
    Case("backup-under-load", "`mulm backup` while all is at work, then `mulm restore`",
         back_up_under_load),
]  # fmt: skip
