from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.stop_requests import stopped_on_request
from mulm.errors import NotRunningError
from mulm.ledger import Ledger
from mulm.records import Phase, Run


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.create_run("run_a", "train", {})
        ledger.set_phase("run_a", "running")
        yield ledger


def wait(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(0.005)


@pytest.mark.parametrize("phase", ["pausing", "cancelled"])
def test_a_request_becomes_the_signal_of_ctrl_c(ledger: Ledger, phase: Phase) -> None:
    def work() -> None:
        with stopped_on_request(ledger, "run_a", 0.01):
            wait(0.05)
            ledger.set_phase("run_a", phase)
            wait(5)

    with pytest.raises(KeyboardInterrupt):
        work()


def test_it_is_sent_once(ledger: Ledger) -> None:
    ledger.set_phase("run_a", "pausing")
    n_signals = 0
    with stopped_on_request(ledger, "run_a", 0.01):
        for _ in range(10):
            try:
                wait(0.05)
            except KeyboardInterrupt:
                n_signals += 1
    assert n_signals == 1


def test_afterwards_none_is_sent(ledger: Ledger) -> None:
    with stopped_on_request(ledger, "run_a", 0.01):
        pass
    ledger.set_phase("run_a", "cancelled")
    wait(0.05)
    assert "stop-requests" not in [thread.name for thread in threading.enumerate()]


def test_a_ledger_that_is_away_is_asked_again(ledger: Ledger, tmp_path: Path) -> None:
    class Flaky(Ledger):
        n_calls = 0

        def run(self, run_id: str) -> Run:
            self.n_calls += 1
            if self.n_calls < 3:
                raise NotRunningError("away")
            return super().run(run_id)

    with Flaky(tmp_path / "ledger.sqlite") as flaky:
        ledger.set_phase("run_a", "pausing")
        with pytest.raises(KeyboardInterrupt), stopped_on_request(flaky, "run_a", 0.01):
            wait(5)
        assert flaky.n_calls == 3


def test_in_another_thread_nothing_is_done(ledger: Ledger) -> None:
    ledger.set_phase("run_a", "pausing")
    seen: list[str] = []

    def work() -> None:
        with stopped_on_request(ledger, "run_a", 0.01):
            wait(0.05)
            seen.append("worked")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["worked"]
