"""Two workers in step, each on a machine of its own, of which one dies, or is wanted back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.exit_codes import exit_code
from mulm.errors import StoppedError
from mulm.home import Home
from mulm.ledger import Ledger
from tests.cluster.test_train import DEADLINE_S, STEPS, Training, training

__all__ = ["training"]

pytestmark = pytest.mark.cluster

GOES_ON_S = 120.0
"""On a quiet machine half of it; what it must not be is a day."""
LEAVES_S = 60.0
"""`mulm leave` has patience for 20 s, which a busy machine may exceed."""
MEMBER = "member_far"
# `ray start` does not join a head on loopback: it puts the machine's own address in its place.
JOIN = """
import signal, sys
from ray._private.node import Node
from ray._private.parameter import RayParams
place = RayParams(
    gcs_address=sys.argv[1], node_ip_address="127.0.0.1", num_cpus=1,
    object_store_memory=100_000_000, labels={"mulm.member": sys.argv[2]},
)
node = Node(place, head=False, shutdown_at_exit=True, spawn_reaper=True, connect_only=False)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
signal.sigwait([signal.SIGTERM])
"""
HOLD_ALL_BUT_ONE = """
import sys, time, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
head = next(n for n in ray.nodes() if "node:__internal_head__" in n["Resources"])
class Holder:
    def ready(self): return True
holder = ray.remote(Holder).options(
    num_cpus=head["Resources"]["CPU"] - 1,
    scheduling_strategy=On(head["NodeID"], soft=False),
).remote()
ray.get(holder.ready.remote(), timeout=60)
print("held", flush=True)
sys.stdin.read()
"""
COUNT = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("alive:", len([n for n in ray.nodes() if n["Alive"]]))
"""


class Far:
    """A machine of one CPU with a home of its own, beside a head of which one CPU is free."""

    def __init__(self, cluster: Any, home: Home) -> None:
        self.cluster, self.home = cluster, home
        self.node: subprocess.Popen[str] | None = None

    def join(self) -> None:
        env = {**os.environ, **self.cluster.env, "MULM_HOME": str(self.home.root)}
        with (self.home.root / "log").open("w") as log:
            self.node = subprocess.Popen(
                [sys.executable, "-c", JOIN, self.cluster.info.gcs_address, MEMBER],
                env=env, text=True, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        wait_until(self._has_joined)

    def drain(self) -> None:
        """What `mulm leave` tells the cluster."""
        subprocess.run(
            [sys.executable, "-m", "actors.drain", self.cluster.info.gcs_address, MEMBER, "20"],
            env=self.cluster.env, check=True, timeout=60,
        )  # fmt: skip

    def is_training(self) -> bool:
        return any("RayTrainWorker" in title for title in self._titles())

    def power_off(self) -> None:
        assert self.node is not None
        for process in [*self._processes(), self.node]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.node.wait(30)

    def leave(self) -> None:
        assert self.node is not None
        self.node.send_signal(signal.SIGTERM)
        self.node.wait(60)

    def is_alone(self) -> bool:
        """Whether the head has no other machine, as far as its cluster knows."""
        return self._n_alive() == 1

    def _processes(self) -> list[psutil.Process]:
        assert self.node is not None
        try:
            return psutil.Process(self.node.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _titles(self) -> Iterator[str]:
        for process in self._processes():
            with suppress(psutil.Error):
                yield " ".join(process.cmdline())

    def _has_joined(self) -> bool:
        assert self.node is not None
        assert self.node.poll() is None, (self.home.root / "log").read_text()
        return self._n_alive() == 2

    def _n_alive(self) -> int:
        asked = [sys.executable, "-c", COUNT, self.cluster.info.gcs_address]
        done = subprocess.run(
            asked, env=self.cluster.env, capture_output=True, text=True, timeout=60
        )
        # Ray says things of its own there too; who could not ask is asked again.
        found = re.search(r"^alive: (\d+)$", done.stdout, re.MULTILINE)
        return int(found[1]) if found else 0


def wait_until(is_so: Callable[[], bool], limit_s: float = DEADLINE_S) -> float:
    """How long that took."""
    started_s = time.monotonic()
    while not is_so():
        assert time.monotonic() < started_s + limit_s
        time.sleep(0.2)
    return time.monotonic() - started_s


@contextmanager
def held(cluster: Any) -> Iterator[None]:
    """The head's CPUs but one are taken."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_ALL_BUT_ONE, cluster.info.gcs_address],
        env=cluster.env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        holder.kill()
        holder.communicate(timeout=60)


@pytest.fixture
def far(cluster: Any, tmp_path: Path) -> Iterator[Far]:
    far = Far(cluster, Home(tmp_path / "far").create())
    with ExitStack() as stack:
        stack.enter_context(held(cluster))
        stack.callback(lambda: wait_until(far.is_alone))  # else the next test counts on it
        far.join()
        stack.callback(far.power_off)
        yield far


def texts_of(training: Training, run_id: str) -> list[str]:
    return [str(e.data["text"]) for e in training.events(run_id) if e.kind == "log"]


def resumed(training: Training, run_id: str) -> list[int]:
    return [e.data["step"] for e in training.events(run_id) if e.kind == "resumed"]


def newest_step(training: Training, run_id: str) -> int:
    return max(training.curve(run_id), default=0)


def finished(training: Training, driver: subprocess.Popen[str], run_id: str) -> dict[str, Any]:
    _, errors = driver.communicate(timeout=DEADLINE_S)
    assert driver.returncode == 0, errors[-4000:]
    with Ledger(training.home.ledger) as ledger:
        run = ledger.run(run_id)
    assert run.phase == "succeeded"
    return run.result or {}


def test_a_machine_that_dies_leaves_the_other_to_go_on(training: Training, far: Far) -> None:
    with training.started("run_alone", sync="ddp") as driver:
        training.wait_for_checkpoint("run_alone", 20)
        assert far.is_training()
        far.power_off()
        took_s = wait_until(lambda: bool(resumed(training, "run_alone")), GOES_ON_S)
        print(f"went on {took_s:.1f} s after the loss")
        result = finished(training, driver, "run_alone")
    assert result["steps"] == STEPS
    assert sorted(training.curve("run_alone")) == list(range(1, STEPS + 1))
    (start,) = resumed(training, "run_alone")
    assert start >= 20
    texts = texts_of(training, "run_alone")
    assert any("starting again (1 of 3)" in text for text in texts), texts
    assert any("going on with 1 of 2 workers" in text for text in texts), texts
    assert any(", 1 workers (" in text for text in texts), texts


def test_a_machine_that_is_wanted_back_goes_with_a_checkpoint_and_may_come_again(
    training: Training, far: Far
) -> None:
    changes = {
        "steps": 100_000,
        "checkpoint_every": 50_000,
        "sync": "ddp",
        "validate_every": 50_000,
    }
    with training.started("run_drained", **changes) as driver:
        wait_until(lambda: newest_step(training, "run_drained") >= 20)
        assert far.is_training()
        far.drain()
        took_s = wait_until(lambda: not far.is_training(), LEAVES_S)
        print(f"left {took_s:.1f} s after it was asked to")
        far.leave()
        wait_until(lambda: bool(resumed(training, "run_drained")))
        (start,) = resumed(training, "run_drained")
        assert start >= 20, "what was learned is kept, and there was no other checkpoint"
        wait_until(lambda: newest_step(training, "run_drained") > start + 20)
        far.join()
        took_s = wait_until(lambda: len(resumed(training, "run_drained")) == 2)
        print(f"was taken in {took_s:.1f} s after it came")
        assert far.is_training()
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=DEADLINE_S)
        assert driver.returncode == exit_code(StoppedError("stopped"))
    steps = [e.data["step"] for e in training.events("run_drained") if e.kind == "metric"]
    assert sorted(steps) == list(range(1, len(steps) + 1)), "each was taken once"
    texts = texts_of(training, "run_drained")
    assert any(f"stopped at step {start} of 100000 for machines" in text for text in texts), texts
    assert any("going on with 1 of 2 workers" in text for text in texts), texts
    assert [text.count(", 2 workers (") for text in texts if "M parameters" in text] == [1, 0, 1]
