"""Events reach the ledger in order, whatever it does meanwhile; gloo gets the right interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from actors.process_group import interface_of
from actors.train_context import EventSender
from mulm.errors import NotRunningError
from mulm.ledger import Ledger


class Flaky(Ledger):
    """A ledger that is away for a while."""

    is_away = False

    def append_events(self, run_id: str, events: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        if self.is_away:
            raise NotRunningError("away")
        return super().append_events(run_id, events)


def test_no_event_is_lost_or_moved(tmp_path: Path) -> None:
    ledger = Flaky(tmp_path / "ledger.sqlite")
    ledger.create_run("run_a", "train", {})
    sender = EventSender(ledger, "run_a", interval_s=60)
    sender.add("metric", {"step": 1})
    ledger.is_away = True
    assert not sender.flush()
    sender.add("metric", {"step": 2})
    ledger.is_away = False
    sender.add("checkpoint", {"step": 2})
    sender.close()
    seen = [(event.kind, event.data["step"]) for event in ledger.events("run_a")]
    assert seen == [("metric", 1), ("metric", 2), ("checkpoint", 2)]
    ledger.close()


def test_the_phase_carries_a_stop_request(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.create_run("run_a", "train", {})
    sender = EventSender(ledger, "run_a", interval_s=60)
    sender._look_for_stop()
    assert not sender.is_stop_requested
    ledger.set_phase("run_a", "pausing")
    sender._look_for_stop()
    assert sender.is_stop_requested
    sender.close()
    ledger.close()


def test_the_interface_that_owns_the_address() -> None:
    interfaces = {"lo": ["127.0.0.1", "::1"], "eth0": ["192.168.1.7", "fe80::1"]}
    assert interface_of("192.168.1.7", interfaces) == "eth0"
    assert interface_of("127.0.0.1", interfaces) == "lo"
    assert interface_of("127.0.1.1", interfaces) == "lo"
    assert interface_of("10.0.0.1", interfaces) is None
