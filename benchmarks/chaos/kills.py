"""Cases that kill a process of the serving side while clients ask and write.

Invariants after each: what was acknowledged is there; all doors answer again within 30 s, and said
nothing unclean meanwhile; no process, shared memory or descriptor is left over.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from random import Random

import httpx
import psutil

from benchmarks.chaos.callers import Callers, Kind
from benchmarks.chaos.case import Case, Outcome
from benchmarks.chaos.leaks import Belongings, left_behind
from benchmarks.chaos.victims import victims
from benchmarks.chaos.witness import Witness
from benchmarks.chaos.world import SERVED, World, is_gone, wait_for

ANSWERS_WITHIN_S = 30.0
_PATIENCE_S = 120.0
"""How long a case goes on to look, so that it can say how long it took."""
_LATEST_KILL_S = 3.0
_AFTERWARDS_S = 3.0
_LISTENER_DIES: tuple[Kind, ...] = ("no connection", "cut")
"""What no process can prevent whose clients are connected to it when it is killed."""


def kill_and_watch(
    kind: str, allowed: Iterable[Kind], world: World, draw: Random, outcome: Outcome
) -> None:
    """Kill one process of a kind at a random moment."""
    before = Belongings.of(world)
    with Callers(world) as callers, Witness(world, draw) as witness:
        callers.wait_for_answers(time.monotonic(), _PATIENCE_S)
        time.sleep(draw.uniform(0.0, _LATEST_KILL_S))
        killed_s = kill_one(world, kind, draw)
        time.sleep(_AFTERWARDS_S)
        _wait(callers, killed_s, outcome)
        time.sleep(_AFTERWARDS_S)
        outcome.seen["again_s"] = round(callers.answered_again_s(killed_s), 1)
    judge(callers, witness, allowed, outcome)
    wait_for(lambda: victims(world.pack, kind), _PATIENCE_S, f"a new {kind}")
    outcome.wrong += left_behind(world, before)


def kill_one(world: World, kind: str, draw: Random) -> float:
    """SIGKILL to one of a kind; returns when (seconds of the monotonic clock)."""
    chosen = draw.choice(victims(world.pack, kind))
    killed_s = time.monotonic()
    chosen.kill()
    return killed_s


def judge(callers: Callers, witness: Witness, allowed: Iterable[Kind], outcome: Outcome) -> None:
    """What clients were told, and whether what they were told holds."""
    outcome.seen["answers"] = dict(callers.count())
    outcome.seen["slowest_s"] = round(callers.slowest_s(), 1)
    outcome.seen["acknowledged"] = witness.n_acknowledged
    outcome.require(witness.n_acknowledged > 0, "no fact was acknowledged")
    again_s = outcome.seen.get("again_s", 0.0)
    outcome.require(again_s <= ANSWERS_WITHIN_S, f"answered again only after {again_s} s")
    outcome.wrong += callers.unclean(allowed)[:5]
    outcome.wrong += witness.missing()[:5]


def _wait(callers: Callers, killed_s: float, outcome: Outcome) -> None:
    try:
        callers.wait_for_answers(killed_s, _PATIENCE_S)
    except TimeoutError as error:
        outcome.wrong.append(str(error))


def kill_the_limiter(world: World, draw: Random, outcome: Outcome) -> None:
    """The owner of all limits, which there is where a key that asks has one."""
    order = {
        "name": f"limited {draw.randrange(16**8):08x}",
        "limits": {"requests_per_minute": 9999},
    }
    secret = world.call("POST", "/api/v1/keys", order)["key"]
    asked = {"model": SERVED, "prompt": "a", "max_tokens": 1}

    def has_owner() -> bool:
        httpx.post(
            f"{world.url}/v1/completions", json=asked, timeout=_PATIENCE_S, trust_env=False,
            headers={"Authorization": f"Bearer {secret}"},
        ).raise_for_status()  # fmt: skip
        return bool(victims(world.pack, "limiter"))

    wait_for(has_owner, _PATIENCE_S, "an owner of limits")
    kill_and_watch("limiter", (), world, draw, outcome)


def kill_the_keeper(world: World, draw: Random, outcome: Outcome) -> None:
    """Nobody notices; nothing brings it back but the next life of the application."""
    with Callers(world) as callers, Witness(world, draw) as witness:
        callers.wait_for_answers(time.monotonic(), _PATIENCE_S)
        time.sleep(draw.uniform(0.0, _LATEST_KILL_S))
        killed_s = kill_one(world, "keeper", draw)
        time.sleep(_AFTERWARDS_S)
        _wait(callers, killed_s, outcome)
        outcome.seen["again_s"] = round(callers.answered_again_s(killed_s), 1)
    judge(callers, witness, (), outcome)
    world.down()
    world.up()
    outcome.require(len(victims(world.pack, "keeper")) == 1, "the next life has no keeper")


def cut_the_power(world: World, draw: Random, outcome: Outcome) -> None:
    """Kill every process at once; then `mulm up`, as after a reboot."""
    with Callers(world) as callers, Witness(world, draw) as witness:
        callers.wait_for_answers(time.monotonic(), _PATIENCE_S)
        time.sleep(draw.uniform(0.0, _LATEST_KILL_S))
        killed = world.pack.find()
        for process in killed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_for(lambda: all(map(is_gone, killed)), _PATIENCE_S, "the end of all")
        begun_s = time.monotonic()
        world.up()
        _wait(callers, begun_s, outcome)
        outcome.seen["again_s"] = round(callers.answered_again_s(begun_s), 1)
    judge(callers, witness, _LISTENER_DIES, outcome)


def _killing(kind: str, listener_dies: bool = False) -> Case:
    allowed = _LISTENER_DIES if listener_dies else ()
    name = f"kill-{kind.replace(' ', '-')}"
    return Case(name, f"SIGKILL of the {kind}", partial(kill_and_watch, kind, allowed))


CASES = [
    _killing("engine"),
    _killing("ingress", listener_dies=True),
    _killing("serve controller"),
    _killing("ledger"),
    _killing("store"),
    Case("kill-limiter", "SIGKILL of the limiter", kill_the_limiter),
    Case("kill-keeper", "SIGKILL of the keeper", kill_the_keeper),
    _killing("dashboard", listener_dies=True),
    _killing("dashboard agent", listener_dies=True),
    _killing("runtime env agent", listener_dies=True),
    _killing("gcs", listener_dies=True),
    _killing("raylet", listener_dies=True),
    _killing("head", listener_dies=True),
    Case("power-cut", "SIGKILL of every process at once, then `mulm up`", cut_the_power),
]
