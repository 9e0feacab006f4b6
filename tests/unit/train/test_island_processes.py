"""Islands in processes of their own: SIGKILL of one of them, and of the aggregator."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mulm.store import Store
from mulm.testing import tiny_dataset
from tests.unit.train.island_child import GRACE_S, ROUND_S, STEPS

pytestmark = pytest.mark.slow

CHILD = Path(__file__).with_name("island_child.py")
DEADLINE_S = 150.0
N_FRAGMENTS = 4


class Fleet:
    """The processes of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, role: str, port: int) -> subprocess.Popen[str]:
        command = [sys.executable, str(CHILD), str(self.folder), role, str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.processes[role] = process
        return process

    def host(self, port: int = 0) -> int:
        """Start the aggregator; its port."""
        stdout = self.start("host", port).stdout
        assert stdout is not None
        with stdout:
            return int(stdout.readline())

    def kill(self, role: str) -> float:
        """When it was dead."""
        process = self.processes.pop(role)
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
        return time.monotonic()

    def told(self, name: str, kind: str) -> list[dict[str, Any]]:
        path = self.folder / f"{name}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("}")]
        return [line for line in told if line["kind"] == kind]

    def wait_for(self, is_true: Callable[[], object]) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while not is_true():
            assert time.monotonic() < end_s
            time.sleep(0.05)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    tiny_dataset(Store(tmp_path / "store"))
    fleet = Fleet(tmp_path)
    yield fleet
    for role in list(fleet.processes):
        fleet.kill(role)


def longest_pause_s(fleet: Fleet, name: str, after_s: float, before_s: float) -> float:
    times = [s["at_s"] for s in fleet.told(name, "step") if after_s - 1 < s["at_s"] < before_s]
    return max(late - early for early, late in pairwise(times))


def counted(fleet: Fleet, name: str) -> set[int]:
    """The fragments of which an update holds what the island gave."""
    return {taken["fragment"] for taken in fleet.told(name, "taken") if taken["counts"]}


def test_nobody_waits_for_the_dead_and_the_run_ends_as_one(fleet: Fleet) -> None:
    port = fleet.host()
    for name in "abc":
        fleet.start(name, port)
    fleet.wait_for(lambda: all(len(fleet.told(name, "step")) > 20 for name in "abc"))

    killed_s = fleet.kill("b")
    fleet.start("d", port)
    fleet.wait_for(lambda: len(counted(fleet, "d")) == N_FRAGMENTS)
    joined_s = fleet.told("d", "taken")[0]["at_s"]
    for name in "ac":  # rounds wait for the dead, training goes on, never paused for the grace
        assert longest_pause_s(fleet, name, killed_s, joined_s) < GRACE_S
    fleet.kill("host")
    time.sleep(2 * ROUND_S)
    assert fleet.host(port) == port
    fleet.wait_for(lambda: all(fleet.told(name, "result") for name in "acd"))

    results = {name: fleet.told(name, "result")[0] for name in "acd"}
    assert {result["steps"] for result in results.values()} == {STEPS}
    assert results["a"]["model_id"]
    assert not results["c"]["model_id"]
    assert results["a"]["validation"] < 3.6
    losses = [m["loss"] for m in fleet.told("a", "metric") if "loss" in m]
    assert losses[-1] < losses[0]
    for fragment in range(N_FRAGMENTS):  # a joiner counts within two rounds
        rounds = [t["counts"] for t in fleet.told("d", "taken") if t["fragment"] == fragment]
        assert any(rounds[:2])
    anchors: dict[tuple[int, int], set[str]] = {}
    for name in "acd":
        for taken in fleet.told(name, "taken"):
            anchors.setdefault((taken["fragment"], taken["number"]), set()).add(taken["anchor"])
    assert len(anchors) > 20
    assert all(len(same) == 1 for same in anchors.values()), "one anchor for all, bit for bit"
