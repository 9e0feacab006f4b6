"""Events reach the ledger in order, whatever it does meanwhile, and nobody waits long for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from actors.event_sender import EventSender
from mulm.errors import NotRunningError
from mulm.ledger import Ledger


class Flaky(Ledger):
    """A ledger that is away, or does not answer for a while."""

    is_away = False
    may_answer = threading.Event()

    def append_events(self, run_id: str, events: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        if self.is_away:
            raise NotRunningError("away")
        assert self.may_answer.wait(10)
        return super().append_events(run_id, events)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Flaky]:
    ledger = Flaky(tmp_path / "ledger.sqlite")
    ledger.may_answer = threading.Event()
    ledger.may_answer.set()
    ledger.create_run("run_a", "train", {})
    yield ledger
    ledger.close()


def seen(ledger: Ledger) -> list[tuple[str, int]]:
    return [(event.kind, event.data["step"]) for event in ledger.events("run_a")]


def test_no_event_is_lost_or_moved(ledger: Flaky) -> None:
    ledger.is_away = True
    sender = EventSender(ledger, "run_a", interval_s=60)
    sender.add("metric", {"step": 1})
    assert not sender.flush(0.05)
    sender.add("metric", {"step": 2})
    ledger.is_away = False
    assert sender.flush(10)
    sender.add("checkpoint", {"step": 2})
    sender.close()
    assert seen(ledger) == [("metric", 1), ("metric", 2), ("checkpoint", 2)]


def test_nobody_waits_longer_than_he_says(ledger: Flaky) -> None:
    ledger.may_answer.clear()
    sender = EventSender(ledger, "run_a", interval_s=60)
    sender.add("metric", {"step": 1})
    started_s = time.monotonic()
    assert not sender.flush(0.1)
    assert time.monotonic() - started_s < 5
    ledger.may_answer.set()
    sender.close()
    assert seen(ledger) == [("metric", 1)]


def test_a_flush_does_not_wait_for_what_comes_later(ledger: Flaky, tmp_path: Path) -> None:
    class Chatty(Ledger):
        """While it takes an event, another one is added."""

        def append_events(self, run_id: str, events: Iterable[Any]) -> int:
            sender.add("metric", {"step": 2})
            return super().append_events(run_id, events)

    chatty = Chatty(tmp_path / "ledger.sqlite")
    sender = EventSender(chatty, "run_a", interval_s=60)
    sender.add("metric", {"step": 1})
    assert sender.flush(5)
    assert ("metric", 1) in seen(ledger)
    chatty.append_events = ledger.append_events  # type: ignore[method-assign]
    sender.close()
    chatty.close()


def test_what_is_lost_is_said(ledger: Flaky, caplog: pytest.LogCaptureFixture) -> None:
    ledger.is_away = True
    sender = EventSender(ledger, "run_a", interval_s=0.01)
    sender.add("metric", {"step": 1})
    sender.close(timeout_s=0.05)
    assert "events lost run=run_a count=1" in caplog.text


def test_the_phase_carries_a_stop_request(ledger: Flaky) -> None:
    sender = EventSender(ledger, "run_a", interval_s=0.01)
    assert not sender.is_stop_requested
    ledger.set_phase("run_a", "pausing")
    end_s = time.monotonic() + 10
    while not sender.is_stop_requested and time.monotonic() < end_s:
        time.sleep(0.005)
    assert sender.is_stop_requested
    sender.close()
