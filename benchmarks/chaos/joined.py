"""Cases with a machine that has joined: its cable is pulled or slow, or its raylet is killed.

A run on islands goes on meanwhile. Each machine is a namespace of the network, so these need root.
Invariants after each: the island on the head has trained on; who was cut off is told as lost, joins
again by itself and gets an island again; who was only slow is not lost; the run does as it is told;
of what was started on the machine that joined nothing is left when it has left.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random

from actors.processes import Pack
from benchmarks.chaos.case import Case, Outcome
from benchmarks.chaos.disk import own_disk
from benchmarks.chaos.machines import Machine, run, two_machines
from benchmarks.chaos.victims import victims
from benchmarks.chaos.world import World, wait_for
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset

_MULM = [sys.executable, "-c", "from jobs.cli import main; main()"]
_PATIENCE_S = 600.0
"""On a machine that others keep busy a start of Ray takes minutes, and may be tried twice."""
_MOST_PAUSE_S = 30.0
"""Between two steps that are told: far less than the silence after which an island is given up."""
_HURT_S = 20.0
_NAME = "chaos"
_CONFIG = {
    "name": _NAME, "dataset": "tiny", "model": TINY_SHAPE, "steps": 1_000_000,
    "batch_tokens": 128, "seq_len": 16, "log_every": 5, "validate_every": 100_000,
    "checkpoint_every": 500, "device": "cpu", "precision": "fp32", "samples": None,
    "sync": "diloco", "diloco": {"round_s": 1.0, "grace_s": 1.0, "wire": "fp32"},
}  # fmt: skip


class Joined:
    """A head that is up, a machine that has joined it, and a run on an island on each."""

    def __init__(self, head: Machine, other: Machine) -> None:
        self.head, self.other = head, other
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}
        """By what they print to."""
        self.run_id = ""

    def begin(self) -> None:
        """All of it; returns when both islands train."""
        told = self.mulm(self.head, "up", "--lan", self.head.address, "--json")
        line = json.loads(told.splitlines()[-1])["join"].split()
        with self.ledger() as ledger:
            data = tiny_dataset(Store(self.head.home / "store"))
            ledger.publish("dataset", "tiny", data.id)
        self._begin(self.other, *line[1:])
        self.wait(lambda: self.n_machines() == 2, "a second machine")
        path = self.head.home / "chaos.json"
        path.write_text(json.dumps(_CONFIG))
        self._begin(self.head, "train", str(path))
        self.wait(lambda: bool(self._runs()), "the run")
        (self.run_id,) = self._runs()
        self.wait(lambda: all(map(self.n_islands, (self.head, self.other))), "two islands")
        self.wait(lambda: self.step() > 0, "the first steps")

    def end(self) -> None:
        """Whatever has become of it."""
        for machine, word in ((self.other, "leave"), (self.head, "down")):
            run(machine, [*_MULM, word], _PATIENCE_S)
        for process in self._processes.values():
            process.kill()
            process.wait()

    def mulm(self, machine: Machine, *words: str) -> str:
        """What a command of ours prints on a machine."""
        done = run(machine, [*_MULM, *words], _PATIENCE_S)
        if done.returncode:
            raise RuntimeError(
                f"mulm {' '.join(words)} ended with {done.returncode}: {done.stderr}"
            )
        return done.stdout

    def ledger(self) -> Ledger:
        """The head's."""
        return Ledger(Home(self.head.home).ledger)

    def texts(self) -> list[str]:
        """The log of the run."""
        with self.ledger() as ledger:
            events = ledger.events(self.run_id, limit=100_000, kinds=["log"])
        return [str(event.data.get("text")) for event in events]

    def n_islands(self, machine: Machine) -> int:
        """How many islands have begun on a machine."""
        return sum(f"begins on {machine.address}" in text for text in self.texts())

    def n_lost(self) -> int:
        """How many islands are told as lost."""
        return sum("is lost" in text for text in self.texts())

    def step(self) -> int:
        """The newest that was told."""
        with self.ledger() as ledger:
            metric = ledger.last_event(self.run_id, "metric")
        return int(metric.data["step"]) if metric else 0

    def n_machines(self) -> int:
        """Those that live, as the head tells it."""
        nodes = json.loads(self.mulm(self.head, "cluster", "nodes", "--json"))
        return sum(node["is_alive"] for node in nodes)

    def wait(self, is_so: Callable[[], bool], what: str) -> float:
        """Until it is so; how long that took.

        Raises:
            RuntimeError: what is to go on meanwhile has ended.
        """

        def is_it() -> bool:
            self._require_living()
            return is_so()

        begun_s = time.monotonic()
        wait_for(is_it, _PATIENCE_S, what)
        return time.monotonic() - begun_s

    def longest_pause_s(self, is_over: Callable[[], bool]) -> float:
        """Between two steps that are told, until it is over."""
        step, told_s, longest_s = self.step(), time.monotonic(), 0.0
        end_s = told_s + _PATIENCE_S
        while not is_over() and time.monotonic() < end_s:
            time.sleep(0.1)
            longest_s = max(longest_s, time.monotonic() - told_s)
            if (now := self.step()) > step:
                step, told_s = now, time.monotonic()
        return longest_s

    def _runs(self) -> list[str]:
        with self.ledger() as ledger:
            return [one.id for one in ledger.runs() if one.config.get("name") == _NAME]

    def _begin(self, machine: Machine, *words: str) -> None:
        """A command that goes on."""
        path = self.head.home.parent / f"{words[0]}.log"
        with path.open("wb") as log:
            self._processes[path] = subprocess.Popen(  # noqa: S603 - our own command line
                machine.command(*_MULM, *words), env=machine.env(), stdout=log, stderr=log
            )

    def _require_living(self) -> None:
        for path, process in self._processes.items():
            if process.poll() is not None:
                told = path.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{path.stem} ended with {process.returncode}: {told}")


@contextmanager
def _joined() -> Iterator[Joined]:
    with own_disk() as folder, two_machines(folder) as (head, other):
        made = Joined(head, other)
        try:
            made.begin()
            yield made
        finally:
            made.end()


def pull_the_cable(joined: Joined, draw: Random, outcome: Outcome) -> None:
    """Out until it is noticed and some seconds more; then in again."""
    time.sleep(draw.uniform(0.0, 3.0))
    begun_s = time.monotonic()
    joined.other.pull()
    paused_s = joined.longest_pause_s(lambda: joined.n_lost() > 0)
    outcome.seen["lost_after_s"] = round(time.monotonic() - begun_s, 1)
    outcome.require(joined.n_lost() == 1, f"{joined.n_lost()} islands are told as lost")
    end_s = time.monotonic() + draw.uniform(0.0, _HURT_S)
    paused_s = max(paused_s, joined.longest_pause_s(lambda: time.monotonic() > end_s))
    outcome.seen["longest_pause_s"] = round(paused_s, 1)
    joined.other.plug()
    took_s = joined.wait(lambda: joined.n_islands(joined.other) > 1, "an island there again")
    outcome.seen["again_s"] = round(took_s, 1)
    outcome.require(joined.n_islands(joined.head) == 1, "the head's island was another one")


def kill_the_raylet(joined: Joined, draw: Random, outcome: Outcome) -> None:
    """What Ray has on the machine that joined; `mulm join` there begins it again."""
    time.sleep(draw.uniform(0.0, 3.0))
    (raylet,) = victims(Pack(Home(joined.other.home)), "raylet")
    begun_s = time.monotonic()
    raylet.kill()
    paused_s = joined.longest_pause_s(lambda: joined.n_lost() > 0)
    outcome.seen["lost_after_s"] = round(time.monotonic() - begun_s, 1)
    outcome.seen["longest_pause_s"] = round(paused_s, 1)
    outcome.require(joined.n_lost() == 1, f"{joined.n_lost()} islands are told as lost")
    took_s = joined.wait(lambda: joined.n_islands(joined.other) > 1, "an island there again")
    outcome.seen["again_s"] = round(took_s, 1)
    outcome.require(joined.n_islands(joined.head) == 1, "the head's island was another one")


def slow_the_link(joined: Joined, draw: Random, outcome: Outcome) -> None:
    """1 Mbit/s each way, which is less than what the rounds carry; then as before."""
    time.sleep(draw.uniform(0.0, 3.0))
    with ExitStack() as slow:
        for machine in (joined.head, joined.other):
            slow.enter_context(machine.slowed(1))
        end_s = time.monotonic() + draw.uniform(_HURT_S, 2 * _HURT_S)
        paused_s = joined.longest_pause_s(lambda: time.monotonic() > end_s)
    outcome.seen["longest_pause_s"] = round(paused_s, 1)
    outcome.require(joined.n_lost() == 0, "an island that was only slow is told as lost")
    outcome.require(joined.n_islands(joined.other) == 1, "it was not the same island afterwards")


def _case_of(
    hurt: Callable[[Joined, Random, Outcome], None], _world: World, draw: Random, outcome: Outcome
) -> None:
    """Hurt, see that both islands train, and end the run."""
    with _joined() as joined:
        hurt(joined, draw, outcome)
        outcome.require(
            outcome.seen["longest_pause_s"] < _MOST_PAUSE_S, "the head's island has waited"
        )
        step = joined.step()
        joined.wait(lambda: joined.step() > step + 20, "further steps")
        joined.wait(lambda: joined.n_machines() == 2, "two machines")
        joined.mulm(joined.head, "runs", "cancel", joined.run_id)
        with joined.ledger() as ledger:
            phase = ledger.run(joined.run_id).phase
        outcome.require(phase == "cancelled", f"told to cancel, the run is {phase}")
        joined.mulm(joined.other, "leave")
        pack = Pack(Home(joined.other.home))
        wait_for(lambda: not pack.find(), _PATIENCE_S, "the end of all on the machine that left")


CASES = [
    Case(name, what, partial(_case_of, hurt), needs_application=False, needs_machines=True)
    for name, what, hurt in (
        ("joined-pulled-cable", "the cable of a machine with an island is out", pull_the_cable),
        ("joined-kill-raylet", "SIGKILL of the raylet of that machine", kill_the_raylet),
        ("joined-slow-link", "its link has 1 Mbit/s for a while", slow_the_link),
    )
]
