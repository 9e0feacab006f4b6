"""A run on islands, on a real cluster: to the end, with deaths, stopped and gone on with."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from actors.processes import Pack
from jobs.exit_codes import exit_code
from mulm.errors import JobFailedError, StoppedError
from mulm.ledger import Ledger
from tests.cluster.test_train import DEADLINE_S, STEPS, Training, result_of, training

__all__ = ["training"]

pytestmark = pytest.mark.cluster

NODE = "127.0.0.1"
"""The address of a cluster that is not open to other machines."""
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


def port_of(aggregator: psutil.Process) -> int:
    """Where islands are connected to it."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        ends = [end for end in aggregator.net_connections("tcp") if end.laddr]
        own = {end.laddr.port for end in ends if end.status == psutil.CONN_LISTEN}
        met = [end.laddr.port for end in ends if end.status == psutil.CONN_ESTABLISHED]
        # An island keeps a connection for each of its threads; Ray's own port has other callers.
        if found := [port for port in met if port in own and met.count(port) >= 4]:
            return found[0]
        time.sleep(0.1)
    pytest.fail("no island is connected to the aggregator")


def test_an_aggregator_whose_port_was_taken_is_found_at_another(clean: Training) -> None:
    with clean.started("run_moved", **ISLANDS) as driver:
        clean.wait_for_checkpoint("run_moved", 20)
        aggregator = newest_of(clean, "OuterSyncHost")
        with socket.socket() as taken:
            port = port_of(aggregator)
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            aggregator.suspend()  # it is not to come back before its port is taken
            aggregator.kill()
            aggregator.wait(DEADLINE_S)
            taken.bind((NODE, port))
            taken.listen()
            _, errors = driver.communicate(timeout=DEADLINE_S)
        assert driver.returncode == 0, errors
    texts = told(clean, "run_moved")
    assert any("the aggregator is at another port now" in text for text in texts), texts
    assert not any("is lost" in text for text in texts), texts
    with Ledger(clean.home.ledger) as ledger:
        assert (ledger.run("run_moved").result or {})["steps"] == 2 * STEPS


def test_an_aggregator_that_cannot_begin_again_ends_the_run_with_the_reason(
    clean: Training,
) -> None:
    with clean.started("run_gone", **ISLANDS) as driver:
        clean.wait_for_checkpoint("run_gone", 20)
        rows = clean.home.run("run_gone") / "rounds" / "rows.json"
        newest_of(clean, "OuterSyncHost").suspend()  # nor does it write the file anew
        rows.unlink()
        rows.mkdir()
        newest_of(clean, "OuterSyncHost").kill()
        began_s = time.monotonic()
        _, errors = driver.communicate(timeout=DEADLINE_S)
        assert driver.returncode == exit_code(JobFailedError("")), errors
        assert time.monotonic() - began_s < 120.0  # islands alone would give up after ten minutes
    with Ledger(clean.home.ledger) as ledger:
        error = ledger.run("run_gone").error or {}
    assert error["code"] == "job_failed"
    assert "the aggregator of the islands has died and cannot begin again" in error["message"]
    assert "IsADirectoryError" in error["message"]
    rows.rmdir()
    result_of(clean.finish("run_gone", **ISLANDS))


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
