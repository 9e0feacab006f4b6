"""A head, a machine that can join it, and what tests ask of both."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.processes import Pack
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.testing import TINY_SHAPE
from tests.cluster.joined.machines import Machine, run

MULM = [sys.executable, "-c", "from jobs.cli import main; main()"]
DEADLINE_S = 300.0


@dataclass
class Pair:
    """A head that is up, and a machine that knows the line to paste."""

    head: Machine
    other: Machine
    address: str
    token: str

    def nodes(self) -> list[dict[str, Any]]:
        done = run(self.head, [*MULM, "cluster", "nodes", "--json"], DEADLINE_S)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return [node for node in found if node["is_alive"]]

    def wait_for_nodes(self, count: int) -> list[dict[str, Any]]:
        end_s = time.monotonic() + DEADLINE_S
        while len(nodes := self.nodes()) != count:
            assert time.monotonic() < end_s, f"{nodes} are not {count} machines"
            time.sleep(0.5)
        return nodes

    def join(self, *more: str) -> subprocess.Popen[str]:
        command = [*MULM, "join", self.address, "--token", self.token, *more]
        return subprocess.Popen(
            self.other.command(*command), env=self.other.env(), stderr=subprocess.PIPE, text=True
        )

    def train(self, config: Path) -> subprocess.Popen[str]:
        """A run on islands that takes longer than any test."""
        config.write_text(json.dumps({
            "name": "ours", "dataset": "tiny", "model": TINY_SHAPE, "steps": 100_000,
            "batch_tokens": 128, "seq_len": 16, "log_every": 50, "validate_every": 2000,
            "checkpoint_every": 500, "device": "cpu", "precision": "fp32", "samples": None,
            "sync": "diloco", "diloco": {"round_s": 0.5, "grace_s": 1.0},
        }))  # fmt: skip
        return subprocess.Popen(
            self.head.command(*MULM, "train", str(config), "--json"), env=self.head.env(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


def living_ids(pair: Pair) -> set[str]:
    """The ids of those that live; none while nobody answers."""
    done = run(pair.head, [*MULM, "cluster", "nodes", "--json"], DEADLINE_S)
    nodes = json.loads(done.stdout) if done.returncode == 0 else []
    return {node["id"] for node in nodes if node["is_alive"]}


def title(process: psutil.Process) -> str:
    """What a process calls itself; nothing where it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.2)


def pack_of(machine: Machine) -> Pack:
    return Pack(Home(machine.home))


def commands_of(machine: Machine) -> str:
    """The command lines of all that runs there."""
    return "\n".join(map(title, pack_of(machine).find()))


def wait_for_run(pair: Pair, name: str) -> str:
    """Until there is a run of that name; its id."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        with Ledger(pair.head.home / "ledger.sqlite") as ledger:
            found = [one.id for one in ledger.runs() if one.config.get("name") == name]
        if found:
            return found[0]
        time.sleep(0.3)
    pytest.fail("no run began")


def newest_step(pair: Pair, run_id: str) -> int:
    """The last step that a run has told of."""
    with Ledger(pair.head.home / "ledger.sqlite") as ledger:
        metric = ledger.last_event(run_id, "metric")
    return metric.data["step"] if metric else 0


def wait_for_text(pair: Pair, word: str, run_id: str) -> None:
    """Until the log of a run has it."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        with Ledger(pair.head.home / "ledger.sqlite") as ledger:
            texts = [str(e.data.get("text")) for e in ledger.events(run_id, kinds=("log",))]
        if any(word in text for text in texts):
            return
        time.sleep(0.3)
    pytest.fail(f"{run_id} did not say {word!r}: {texts}")
