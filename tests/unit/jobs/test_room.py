"""Room for workers: refused, waited for, left to others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from jobs import room
from jobs.boxes import Box
from jobs.entry import JobContext
from jobs.room import (
    BACK_S,
    BOXES_S,
    ROOM_TIMEOUT_S,
    check_room,
    wait_for_boxes,
    wait_for_rest,
    wait_for_room,
)
from mulm.errors import ConfigError, DeadlineError, DeviceError, MulmError, StoppedError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.store import Store


@pytest.fixture
def context(home: Home) -> Iterator[JobContext]:
    ledger = Ledger(home.ledger)
    ledger.create_run("run_t", "train", {})
    yield JobContext("run_t", home, Store(home.store), ledger)
    ledger.close()


@pytest.mark.parametrize(
    ("workers", "device", "error"), [(3, "cpu", ConfigError), (2, "cuda", DeviceError)]
)
def test_more_workers_than_room_are_refused(
    workers: int, device: str, error: type[MulmError]
) -> None:
    check_room(1, device, {"CPU": 2.0, "GPU": 1.0})
    with pytest.raises(error, match=f"workers: {workers}"):
        check_room(workers, device, {"CPU": 2.0, "GPU": 1.0})


class Waiting:
    """A clock that the waiting moves, and a cluster with room after a while."""

    def __init__(self, free_after_s: float) -> None:
        self.time_s, self.free_after_s = 0.0, free_after_s

    def now_s(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds * 30 if self.free_after_s > 1000 else seconds

    def available(self) -> dict[str, float]:
        return {"CPU": 2.0} if self.time_s >= self.free_after_s else {}


@pytest.mark.parametrize(("free_after_s", "lines"), [(0, 0), (3, 0), (60, 1)])
def test_a_run_waits_for_room_and_says_so_once(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, free_after_s: float, lines: int
) -> None:
    waiting = Waiting(free_after_s)
    monkeypatch.setattr(ray, "available_resources", waiting.available)
    wait_for_room(2, "cpu", context, waiting.now_s, waiting.sleep)
    assert free_after_s <= waiting.time_s <= free_after_s + 1
    events = context.facts.events("run_t")
    texts = [str(event.data["text"]) for event in events if event.kind == "log"]
    assert len(texts) == lines
    phases = [event.data["phase"] for event in events if event.kind == "phase"]
    assert phases == ["queued", "running"] * lines
    assert all("2 CPUs are needed and 0 are free" in text for text in texts)


def test_a_run_that_waits_for_room_can_be_stopped(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Waiting(60)
    monkeypatch.setattr(ray, "available_resources", waiting.available)

    def sleep(seconds: float) -> None:
        waiting.sleep(seconds)
        if waiting.time_s == 30:
            context.facts.set_phase("run_t", "pausing")

    with pytest.raises(StoppedError, match="run_t is pausing"):
        wait_for_room(2, "cpu", context, waiting.now_s, sleep)
    assert context.facts.run("run_t").phase == "pausing"


def test_waiting_for_room_has_an_end(context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Waiting(10 * ROOM_TIMEOUT_S)
    monkeypatch.setattr(ray, "available_resources", waiting.available)
    with pytest.raises(DeadlineError, match="for 24 hours"):
        wait_for_room(2, "cpu", context, waiting.now_s, waiting.sleep)


class TwoMachines(Waiting):
    """The first has room at once, the second after a while."""

    BOXES = [Box(name, f"10.0.0.{name}", 1, {"CPU": 1.0}) for name in "12"]

    def free(self) -> dict[str, dict[str, float]]:
        return {"1": {"CPU": 1.0}, "2": self.available()}


@pytest.mark.parametrize(("free_after_s", "n_found"), [(0, 2), (3, 2), (60, 1)])
def test_machines_that_others_have_are_left_out_after_a_while(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, free_after_s: float, n_found: int
) -> None:
    waiting = TwoMachines(free_after_s)
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(room, "free_resources", waiting.free)
    boxes = waiting.BOXES
    found = wait_for_boxes(boxes, "cpu", context, waiting.now_s, waiting.sleep)
    assert found == boxes[:n_found]
    assert waiting.time_s <= max(free_after_s, BOXES_S) + 1
    texts = [event.data.get("text") for event in context.facts.events("run_t", kinds=("log",))]
    assert texts == ["10.0.0.2 is left out: it has no room"] * (2 - n_found)


def test_where_no_machine_has_room_one_is_waited_for(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = TwoMachines(60)
    monkeypatch.setattr(ray, "available_resources", waiting.available)
    monkeypatch.setattr(room, "free_resources", lambda: {"2": waiting.available()})
    boxes = waiting.BOXES
    assert wait_for_boxes(boxes, "cpu", context, waiting.now_s, waiting.sleep) == boxes[1:]
    assert 60 <= waiting.time_s < 80


class LostMachine(TwoMachines):
    """Both PCs have a CPU, of which the second is there after a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free_after_s: float) -> None:
        super().__init__(free_after_s)
        monkeypatch.setattr(room, "free_resources", self.free)
        monkeypatch.setattr(room, "staying_nodes", self.nodes)
        monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": float(len(self.nodes()))})

    def nodes(self) -> list[dict[str, object]]:
        names = "12" if self.time_s >= self.free_after_s else "1"
        return [{"NodeID": name, "Resources": {"CPU": 1.0}} for name in names]


@pytest.mark.parametrize(("free_after_s", "n_found"), [(0, 2), (3, 2), (19, 2), (60, 1)])
def test_after_a_loss_as_many_as_have_room_go_on(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, free_after_s: float, n_found: int
) -> None:
    waiting = LostMachine(monkeypatch, free_after_s)
    assert wait_for_rest(2, "cpu", context, waiting.now_s, waiting.sleep) == n_found
    assert waiting.time_s <= min(free_after_s, BACK_S) + 1
    texts = [event.data.get("text") for event in context.facts.events("run_t", kinds=("log",))]
    told = "going on with 1 of 2 workers; more are taken in when their machines are back"
    assert texts == [told] * (2 - n_found)


def test_a_machine_that_left_is_not_waited_for(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = LostMachine(monkeypatch, 60)
    found = wait_for_rest(2, "cpu", context, waiting.now_s, waiting.sleep, is_awaited=False)
    assert (found, waiting.time_s) == (1, 0.0)


def test_what_the_workers_before_had_is_waited_for(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray gives back what a group had some moments after its end."""
    waiting = LostMachine(monkeypatch, 0)

    def free() -> dict[str, dict[str, float]]:
        return {"1": {"CPU": 1.0}} if waiting.time_s < 3 else waiting.free()

    monkeypatch.setattr(room, "free_resources", free)
    found = wait_for_rest(2, "cpu", context, waiting.now_s, waiting.sleep, is_awaited=False)
    assert (found, waiting.time_s) == (2, 3.0)


def test_one_worker_at_least_is_waited_for(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = LostMachine(monkeypatch, 0)
    monkeypatch.setattr(waiting, "nodes", list)
    monkeypatch.setattr(room, "staying_nodes", lambda: waiting.nodes())
    monkeypatch.setattr(room, "free_resources", dict)

    def sleep(seconds: float) -> None:
        waiting.sleep(seconds)
        if waiting.time_s == 100:
            monkeypatch.setattr(waiting, "nodes", lambda: LostMachine.nodes(waiting)[:1])
            monkeypatch.setattr(room, "free_resources", waiting.free)

    assert wait_for_rest(2, "cpu", context, waiting.now_s, sleep) == 1
    assert waiting.time_s == 100
    phases = [e.data["phase"] for e in context.facts.events("run_t", kinds=("phase",))]
    assert phases == ["queued", "running"]
