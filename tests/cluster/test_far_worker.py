"""Workers on a machine with a home of its own: what they make comes to the head, and back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.exit_codes import exit_code
from mulm.checkpoint_files import checkpoints
from mulm.errors import StoppedError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.model.checkpoint import load_checkpoint
from mulm.store import Store
from tests.cluster.test_train import DEADLINE_S, STEPS, Training, result_of, training

__all__ = ["training"]

pytestmark = pytest.mark.cluster

# `ray start` does not join a head on loopback: it puts the machine's own address in its place.
JOIN = """
import signal, sys
from ray._private.node import Node
from ray._private.parameter import RayParams
place = RayParams(
    gcs_address=sys.argv[1], node_ip_address="127.0.0.1", num_cpus=2,
    object_store_memory=100_000_000,
)
node = Node(place, head=False, shutdown_at_exit=True, spawn_reaper=True, connect_only=False)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
signal.sigwait([signal.SIGTERM])
"""
HOLD_THE_HEAD = """
import sys, time, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
head = next(n for n in ray.nodes() if "node:__internal_head__" in n["Resources"])
class Holder:
    def ready(self): return True
holder = ray.remote(Holder).options(
    num_cpus=head["Resources"]["CPU"], scheduling_strategy=On(head["NodeID"], soft=False)
).remote()
ray.get(holder.ready.remote(), timeout=60)
while len([n for n in ray.nodes() if n["Alive"]]) < 2:
    time.sleep(0.1)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def ended(process: subprocess.Popen[str], with_signal: int) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.send_signal(with_signal)
        process.communicate(timeout=60)


@pytest.fixture
def far(cluster: Any, tmp_path: Path) -> Iterator[Home]:
    """A second machine of two CPUs with its own home; the head's CPUs are taken."""
    home = Home(tmp_path / "far").create()
    env = {**os.environ, **cluster.env, "MULM_HOME": str(home.root)}
    join = [sys.executable, "-c", JOIN, cluster.info.gcs_address]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with ExitStack() as stack:
        node = subprocess.Popen(join, env=env, text=True, **quiet)  # type: ignore[call-overload]
        stack.enter_context(ended(node, signal.SIGTERM))
        hold = [sys.executable, "-c", HOLD_THE_HEAD, cluster.info.gcs_address]
        holder = subprocess.Popen(
            hold, env=cluster.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stack.enter_context(ended(holder, signal.SIGKILL))
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield home


def steps(home: Home, run_id: str) -> list[str]:
    return [path.name for path in checkpoints(home.run(run_id) / "checkpoints")]


def test_a_run_elsewhere_stops_goes_on_from_the_head_and_leaves_its_model_there(
    training: Training, far: Home
) -> None:
    with training.started("run_far") as driver:
        training.wait_for_checkpoint("run_far", 20)
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=DEADLINE_S)
        assert driver.returncode == exit_code(StoppedError("stopped"))
    at_head = training.home.run("run_far") / "checkpoints"
    assert steps(far, "run_far") == steps(training.home, "run_far") != []
    stopped_at = load_checkpoint(checkpoints(at_head)[-1]).step
    for path in checkpoints(far.run("run_far") / "checkpoints"):  # that machine was set up anew
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    result = result_of(training.finish("run_far"))
    begun = [e.data["step"] for e in training.events("run_far") if e.kind == "resumed"]
    assert begun == [stopped_at]
    assert steps(training.home, "run_far")[-1] == f"step-{STEPS:08d}"
    with Ledger(training.home.ledger) as ledger:
        assert ledger.run("run_far").phase == "succeeded"
    model = Store(training.home.store).load(result["model_id"])
    Store(training.home.store).paths(model.blobs)
    assert Store(far.store).load(model.id) == model
