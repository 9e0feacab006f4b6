"""An hour of ordinary life with faults: training, serving and churn at once.

    python -m benchmarks.chaos --minutes 60

Clients ask and write all the time; training runs follow each other; now and then a process is
killed, a deployment changes its model, a run is paused and goes on. Every sample tells memory,
descriptors, processes and how long answers took; the last third of them must look like the first.
Invariants: those of all cases, at the end.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import psutil

from benchmarks.chaos.callers import Callers
from benchmarks.chaos.case import Outcome
from benchmarks.chaos.kills import kill_one
from benchmarks.chaos.leaks import Belongings, left_behind
from benchmarks.chaos.training import STEPS, submit, wait_for_end
from benchmarks.chaos.victims import victims
from benchmarks.chaos.witness import Witness
from benchmarks.chaos.world import SERVED, World, served_args, wait_for
from jobs.serve_model import serve_model
from mulm.errors import MulmError

SAMPLE_S = 15.0
CHURN_S = 40.0
_KILLED = ("engine", "ingress", "ledger", "store", "serve controller")
_MORE_MEMORY, _MORE_DESCRIPTORS, _SLOWER = 1.15, 1.15, 2.0
"""How much more the last third may have than the first."""
_SETTLE_S = 120.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The application at one moment."""

    at_s: float
    memory_mb: int
    """Of all processes but those of runs, the shared part of each counted once."""
    descriptors: int
    processes: int
    p50_s: float
    n_ok: int
    n_come_back: int
    n_other: int


class Training:
    """Runs that follow each other, in a thread."""

    def __init__(self, world: World) -> None:
        self._world, self.n_ended = world, 0
        self.wrong: list[str] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._train_on, daemon=True)

    def __enter__(self) -> Training:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(300.0)

    def _train_on(self) -> None:
        number = 0
        while not self._is_over.is_set():
            number += 1
            try:
                submit(self._world, f"run_soak{number}", seed=number, steps=STEPS)
                wait_for_end(self._world, f"run_soak{number}")
                self.n_ended += 1
            except (MulmError, TimeoutError, OSError) as error:
                self.wrong.append(f"run {number}: {error!r}"[:300])
                self._is_over.wait(5.0)


def soak(world: World, draw: Random, minutes: float, outcome: Outcome) -> list[Sample]:
    """Live so long; returns the samples."""
    before = Belongings.of(world)
    samples: list[Sample] = []
    with Callers(world, pause_s=0.3) as callers, Witness(world, draw, 1.0) as witness:
        callers.wait_for_answers(time.monotonic(), _SETTLE_S)
        begun_s = churned_s = time.monotonic()
        with Training(world) as training:
            while (now_s := time.monotonic()) < begun_s + 60.0 * minutes:
                if now_s - churned_s > CHURN_S:
                    churned_s = now_s
                    _churn(world, draw, outcome)
                time.sleep(SAMPLE_S)
                samples.append(_sample(world, callers, begun_s, now_s))
                print(json.dumps(asdict(samples[-1])), flush=True)
        callers.wait_for_answers(time.monotonic(), _SETTLE_S)
    outcome.seen.update(minutes=minutes, answers=dict(callers.count()), runs=training.n_ended,
                        acknowledged=witness.n_acknowledged)  # fmt: skip
    outcome.wrong += training.wrong[:3] + witness.missing()[:5]
    outcome.wrong += callers.unclean(("no connection", "cut"))[:5]
    _compare(samples, outcome)
    outcome.wrong += left_behind(world, before, _SETTLE_S)
    return samples


def _churn(world: World, draw: Random, outcome: Outcome) -> None:
    """One change that a household makes, or one that befalls it."""
    kind = draw.choice((*_KILLED, "model", "model"))
    done = outcome.seen.setdefault("churn", {})
    done[kind] = done.get(kind, 0) + 1
    if kind == "model":
        number = 1 + done[kind] % 2
        serve_model(
            world.info, served_args().model_copy(update={"model": f"{SERVED}@{number}"}),
            home=world.home,
        )  # fmt: skip
        return
    wait_for(lambda: victims(world.pack, kind), _SETTLE_S, f"a living {kind}")
    kill_one(world, kind, draw)


def _sample(world: World, callers: Callers, begun_s: float, since_s: float) -> Sample:
    processes = [p for p in world.pack.find() if not _is_of_a_run(p)]
    count = callers.count(since_s)
    n_other = sum(count.values()) - count["ok"] - count["come back"]
    return Sample(
        round(time.monotonic() - begun_s), sum(map(_memory, processes)) >> 20,
        sum(map(_descriptors, processes)), len(processes), callers.median_s("whole", since_s),
        count["ok"], count["come back"], n_other,
    )  # fmt: skip


def _is_of_a_run(process: psutil.Process) -> bool:
    """Whether it comes and goes with a run, or waits for the next task."""
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return True
    marks = ("Train", "jobs.train", "JobSupervisor", "ray::IDLE", "_StoreActor", "Synchronization")
    return any(mark in line for mark in marks)


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _descriptors(process: psutil.Process) -> int:
    try:
        return process.num_fds()
    except psutil.Error:
        return 0


def _compare(samples: list[Sample], outcome: Outcome) -> None:
    """Whether the last third is as the first; the median of each, so one sample counts little."""
    third = len(samples) // 3
    if not third:
        return
    first, last = samples[:third], samples[-third:]
    for name, factor in (
        ("memory_mb", _MORE_MEMORY), ("descriptors", _MORE_DESCRIPTORS), ("p50_s", _SLOWER)
    ):  # fmt: skip
        one, other = (_median([getattr(s, name) for s in part]) for part in (first, last))
        outcome.seen[name] = [one, other]
        outcome.require(other <= factor * one, f"{name} grew from {one} to {other}")


def _median(values: list[Any]) -> float:
    return float(sorted(values)[len(values) // 2])
