"""A run on islands, on a real cluster: to the end, with deaths, stopped and gone on with."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from actors.processes import Pack
from jobs.exit_codes import exit_code
from mulm.errors import StoppedError
from mulm.ledger import Ledger
from tests.cluster.test_train import DEADLINE_S, STEPS, Training, result_of, training

__all__ = ["training"]

pytestmark = pytest.mark.cluster

ISLANDS: dict[str, Any] = {
    "sync": "diloco", "diloco": {"round_s": 0.5, "grace_s": 1.0}, "steps": 2 * STEPS,
    "log_every": 10, "validate_every": 400, "samples": None,
}  # fmt: skip


def processes_of(training: Training, word: str) -> list[psutil.Process]:
    return [p for p in Pack(training.home).find() if word in " ".join(p.cmdline())]


def newest_of(training: Training, word: str) -> psutil.Process:
    """The process that began last; one that was killed may just be coming back."""
    end_s = time.monotonic() + DEADLINE_S
    while not (found := processes_of(training, word)):
        assert time.monotonic() < end_s, f"no process is called {word!r}"
        time.sleep(0.1)
    return max(found, key=lambda process: process.pid)


def told(training: Training, run_id: str) -> list[str]:
    return [e.data["text"] for e in training.events(run_id) if e.kind == "log"]


def wait_for(training: Training, run_id: str, word: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not any(word in text for text in told(training, run_id)):
        assert time.monotonic() < end_s, f"nobody said {word!r}"
        time.sleep(0.1)


@pytest.fixture
def clean(training: Training) -> Iterator[Training]:
    yield training
    assert not processes_of(training, "IslandWorker.run")


def test_two_islands_to_the_end_though_one_of_them_and_the_aggregator_are_killed(
    clean: Training,
) -> None:
    with clean.started("run_islands", **ISLANDS) as driver:
        clean.wait_for_checkpoint("run_islands", 20)
        newest_of(clean, "OuterSyncHost").send_signal(signal.SIGKILL)
        clean.wait_for_checkpoint("run_islands", 60)
        newest_of(clean, "IslandWorker.run").send_signal(signal.SIGKILL)
        _, errors = driver.communicate(timeout=DEADLINE_S)
        assert driver.returncode == 0, errors
    texts = told(clean, "run_islands")
    assert sum("begins on" in text for text in texts) >= 3, texts
    lost = [text for text in texts if "is lost" in text]
    assert len(lost) == 1, "\n".join(lost)
    with Ledger(clean.home.ledger) as ledger:
        result = ledger.run("run_islands").result or {}
    assert result["steps"] == 2 * STEPS
    assert result["validation_bits_per_byte"] < 4.5  # of some six bits at the start
    # Steps are reported by the island that leads, and by no other.
    steps = [e.data["step"] for e in clean.events("run_islands") if e.kind == "metric"]
    assert len(set(steps)) > STEPS // 10


def test_islands_that_were_stopped_go_on(clean: Training) -> None:
    with clean.started("run_stopped_islands", **ISLANDS) as driver:
        clean.wait_for_checkpoint("run_stopped_islands", 30)
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=DEADLINE_S)
        assert driver.returncode == exit_code(StoppedError("stopped"))
    assert (clean.home.run("run_stopped_islands") / "rounds").is_dir()
    before = len(clean.events("run_stopped_islands"))
    result_of(clean.finish("run_stopped_islands", **ISLANDS))
    steps = [
        e.data["step"]
        for e in clean.events("run_stopped_islands")[before:]
        if e.kind == "metric" and "loss" in e.data
    ]
    assert steps[0] >= 20
