"""Cases in which the clock jumps, for what takes its time from a clock that is passed in.

No application runs. Invariants: the order of events and of an alias's moves is that in which they
happened, pages of runs show each once, a claim on an answer never outlives its lease by more than
the jump, what was revoked stays so, and nothing young is collected that something needs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

from benchmarks.chaos.case import Case, Outcome
from benchmarks.chaos.world import World
from mulm.gc import collect, plan_gc
from mulm.ledger import Ledger
from mulm.manifest import Manifest
from mulm.records import Claim
from mulm.store import Store

_N_ACTS = 400
_JUMPS_S = (-365 * 86_400.0, -86_400.0, -3600.0, -1.0, 0.0, 0.001, 1.0, 3600.0, 86_400.0 * 365)
_LEASE_S = 30.0


class JumpingClock:
    """Mostly goes on, now and then jumps by up to a year, back as well as ahead."""

    def __init__(self, draw: Random) -> None:
        self._draw, self.now_s = draw, 1.8e9

    def __call__(self) -> float:
        """The time."""
        self.now_s += self._draw.random()
        if self._draw.random() < 0.1:
            self.now_s += self._draw.choice(_JUMPS_S)
        return self.now_s


def jump(_world: World, draw: Random, outcome: Outcome) -> None:
    """Do everything in random order, then look whether all of it is as it was done."""
    clock = JumpingClock(draw)
    with tempfile.TemporaryDirectory(prefix="mulm-chaos-") as folder:
        store = Store(Path(folder) / "store", clock=clock)
        with Ledger(Path(folder) / "ledger.sqlite", clock) as ledger:
            _live(store, ledger, clock, draw, outcome)
    outcome.seen["acts"] = _N_ACTS


def _live(
    store: Store, ledger: Ledger, clock: JumpingClock, draw: Random, outcome: Outcome
) -> None:
    runs: dict[str, int] = {}
    aliases: list[int] = []
    revoked, kept, versions = set[str](), set[str](), 0
    for number in range(_N_ACTS):
        match draw.randrange(6):
            case 0:
                ledger.create_run(f"run_{number}", "train", {})
                runs[f"run_{number}"] = 0
            case 1 if runs:
                run_id = draw.choice(sorted(runs))
                runs[run_id] = ledger.append_events(run_id, [("metric", {"step": number})])
            case 2:
                _publish(store, ledger, number)
                versions += 1
            case 3 if versions:
                number = draw.randint(1, versions)
                ledger.set_alias("dataset", "books", "live", number)
                if aliases[-1:] != [number]:  # where it points already is no move
                    aliases.append(number)
            case 4:
                ledger.add_key(f"key_{number}", f"{number:064x}", f"friend {number}")
                (revoked if draw.random() < 0.5 else kept).add(f"key_{number}")
                if f"key_{number}" in revoked:
                    ledger.remove_key(f"key_{number}")
            case _:
                outcome.require(_claim_ends(ledger, clock, number), "a claim outlived its lease")
    for run_id, n in runs.items():
        found = [event.seq for event in ledger.events(run_id)]
        outcome.require(found == list(range(1, n + 1)), f"events of {run_id}: {found}")
    moved = [each.number for each in reversed(ledger.alias_history("dataset", "books", "live"))]
    outcome.require(aliases in (moved, moved[::-1]), "the moves of the alias are in another order")
    outcome.require(sorted(_paged(ledger)) == sorted(runs), "pages of runs lost or doubled one")
    outcome.require({key.id for key in ledger.valid_keys()} == kept, "keys are others")
    collect(plan_gc(store, ledger, clock()))
    lost = [v.ref for v in ledger.versions("dataset") if not _is_whole(store, v.manifest_id)]
    outcome.require(not lost, f"collected although they have names: {lost}")


def _publish(store: Store, ledger: Ledger, number: int) -> None:
    blobs = (store.put("train-00000.bin", number.to_bytes(8, "big")),)
    manifest = Manifest(kind="dataset", code_version="0", config={"n": number}, blobs=blobs)
    store.save(manifest)
    ledger.publish("dataset", "books", manifest.id)


def _claim_ends(ledger: Ledger, clock: JumpingClock, number: int) -> bool:
    """A claim whose holder died, and the clock jumps back a year: it must not last a year."""
    ledger.claim_answer(Claim("key_1", f"k{number}", "killed"), "d", _LEASE_S)
    clock.now_s -= 365 * 86_400.0
    return ledger.claim_answer(Claim("key_1", f"k{number}", "again"), "d", _LEASE_S) is None


def _paged(ledger: Ledger) -> list[str]:
    found: list[str] = []
    while page := ledger.runs(after=found[-1] if found else None, limit=7):
        found += [run.id for run in page]
    return found


def _is_whole(store: Store, manifest_id: str) -> bool:
    return manifest_id in store.manifest_ids() and bool(store.paths(store.load(manifest_id).blobs))


CASES = [
    Case("clock-jumps", "the clock jumps by up to a year", jump, needs_application=False),
]
