"""Cases that hit a run of two islands on one machine, and what it must have learned all the same.

Invariants after each: the run ends with all of its steps; an island that was killed is told as lost
once, and of an aggregator that was killed no island is; the held-out loss is that of a run that
nothing befell, but for `MOST_MORE`: islands depend on time, so weights are never the same.
"""

from __future__ import annotations

import time
from functools import partial
from random import Random

from benchmarks.chaos.case import Case, Outcome
from benchmarks.chaos.kills import kill_one
from benchmarks.chaos.leaks import Belongings, left_behind
from benchmarks.chaos.training import run_of, submit, wait_for_end, wait_for_step
from benchmarks.chaos.world import World
from mulm.ledger import Ledger

STEPS = 400
MOST_MORE = 0.10
"""The part of the loss by which it may be more than that of the run that nothing befell."""
_FIRST_KILL, _LAST_KILL = 20, 100
_ASKED = {
    "sync": "diloco", "diloco": {"round_s": 0.5, "grace_s": 1.0}, "steps": STEPS,
    "log_every": 5, "samples": None,
}  # fmt: skip


def hit(kind: str, n_lost: int, world: World, draw: Random, outcome: Outcome) -> None:
    """Kill one of a kind at a random step of a run, and compare its end with another's."""
    name = f"{draw.randrange(16**8):08x}"
    whole, struck = f"run_whole{name}", f"run_islands{name}"
    submit(world, whole, **_ASKED)
    wait_for_end(world, whole)
    before = Belongings.of(world)
    submit(world, struck, **_ASKED)
    wait_for_step(world, struck, draw.randint(_FIRST_KILL, _LAST_KILL))
    begun_s = time.monotonic()
    kill_one(world, kind, draw)
    wait_for_end(world, struck)
    outcome.seen["finished_s"] = round(time.monotonic() - begun_s, 1)
    compare(_result(world, whole), _result(world, struck), outcome)
    lost = [text for text in _texts(world, struck) if "is lost" in text]
    outcome.require(len(lost) == n_lost, f"told as lost: {lost}")
    outcome.wrong += left_behind(world, before)


def compare(whole: dict[str, float], struck: dict[str, float], outcome: Outcome) -> None:
    """Both have taken all steps, and have learned as much."""
    for name, result in (("whole", whole), ("struck", struck)):
        steps = result.get("steps")
        outcome.require(steps == STEPS, f"the {name} run has {steps} steps, not {STEPS}")
    if outcome.wrong:
        return
    expected, found = (run["validation_bits_per_byte"] for run in (whole, struck))
    outcome.seen["loss"], outcome.seen["loss_of_whole"] = round(found, 4), round(expected, 4)
    more = found / expected - 1
    outcome.require(more <= MOST_MORE, f"the loss is {more:.1%} more, {MOST_MORE:.0%} is the most")


def _result(world: World, run_id: str) -> dict[str, float]:
    return run_of(world, run_id).result or {}


def _texts(world: World, run_id: str) -> list[str]:
    with Ledger(world.home.ledger) as ledger:
        events = ledger.events(run_id, limit=100_000, kinds=["log"])
    return [str(event.data.get("text")) for event in events]


CASES = [
    Case("islands-kill-aggregator", "SIGKILL of the aggregator of a run on islands",
         partial(hit, "aggregator", 0)),
    Case("islands-kill-island", "SIGKILL of one of two islands of a run",
         partial(hit, "island", 1)),
]  # fmt: skip
