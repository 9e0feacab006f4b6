"""Pausing and cancelling, with the process of a run played by the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from actors import run_desk
from actors.job_client import Attempt, JobClient
from actors.run_desk import RunDesk, RunWatch, open_desk
from mulm.errors import ConflictError, DeadlineError, NoSpaceError, NotFoundError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.records import Phase
from mulm.run_lock import run_lock


class Jobs:
    """The jobs of a cluster, as a list; a stopped one ends at once."""

    def __init__(self) -> None:
        self.all: dict[str, Attempt] = {}
        self.stopped: list[str] = []

    def add(self, submission_id: str, status: Any = "RUNNING", started_s: float = 1e12) -> None:
        self.all[submission_id] = Attempt(
            submission_id, 1, status, "exit code -9", started_s, "train"
        )

    def attempts(self) -> dict[str, Attempt]:
        return dict(self.all)

    def stop(self, run_id: str) -> None:
        self.stop_job(run_id)

    def stop_job(self, submission_id: str) -> None:
        self.stopped.append(submission_id)
        self.add(submission_id, "STOPPED")

    def wait(self, run_id: str, timeout_s: float) -> str:
        assert self.all[run_id].status == "STOPPED"
        return "STOPPED"

    def log_tail(self, run_id: str, n_lines: int) -> str:
        return f"last {n_lines} of {run_id}"


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    with Ledger(home.ledger) as ledger:
        yield ledger


@pytest.fixture
def desk(home: Home, ledger: Ledger, jobs: Jobs) -> RunDesk:
    def write(method: str, *args: Any, **kwargs: Any) -> None:
        json.dumps([args, kwargs])  # it crosses a process border
        getattr(ledger, method)(*args, **kwargs)

    return RunDesk(home, ledger, cast(JobClient, jobs), write)


def begin(ledger: Ledger, run_id: str, phase: Phase) -> None:
    ledger.create_run(run_id, "train", {"name": "demo"})
    ledger.set_phase(run_id, phase)


class Process:
    """Holds the run's lock until it is told to stop, then notes how it ends."""

    def __init__(self, home: Home, ledger: Ledger, end: Callable[[Phase], None]) -> None:
        self.home, self.ledger, self.end = home, ledger, end
        self.holds = threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self) -> None:
        with run_lock(self.home, "run_a"):
            self.holds.set()
            while (phase := self.ledger.run("run_a").phase) not in ("pausing", "cancelled"):
                threading.Event().wait(0.01)
            self.end(phase)

    def __enter__(self) -> None:
        self.thread.start()
        assert self.holds.wait(5)

    def __exit__(self, *_: object) -> None:
        self.thread.join(5)


def test_a_running_run_is_paused_once_its_process_has_ended(
    desk: RunDesk, ledger: Ledger, home: Home
) -> None:
    begin(ledger, "run_a", "running")
    with Process(home, ledger, lambda _: ledger.set_phase("run_a", "paused")):
        assert desk.one("run_a").run.phase == "running"
        found = desk.pause("run_a")
        assert (found.run.phase, found.is_living) == ("paused", False)
    assert desk.pause("run_a").run.phase == "paused"
    phases = [event.data["phase"] for event in ledger.events("run_a", kinds=("phase",))]
    assert phases == ["running", "pausing", "paused"]


def test_a_run_that_was_done_before_it_could_pause_has_succeeded(
    desk: RunDesk, ledger: Ledger, home: Home
) -> None:
    begin(ledger, "run_a", "running")
    with Process(home, ledger, lambda _: ledger.set_phase("run_a", "succeeded", result={"x": 1})):
        assert desk.pause("run_a").run.result == {"x": 1}


def test_what_fails_on_the_way_to_a_pause_is_raised(
    desk: RunDesk, ledger: Ledger, home: Home
) -> None:
    begin(ledger, "run_a", "running")
    error = {"code": "no_space", "message": "the disk is full", "hint": ""}
    with (
        Process(home, ledger, lambda _: ledger.set_phase("run_a", "failed", error=error)),
        pytest.raises(NoSpaceError, match="the disk is full"),
    ):
        desk.pause("run_a")


def test_a_process_that_dies_while_it_pauses_is_noted(
    desk: RunDesk, ledger: Ledger, home: Home
) -> None:
    begin(ledger, "run_a", "running")
    with (
        Process(home, ledger, lambda _: None),
        pytest.raises(Exception, match="died without a word") as caught,
    ):
        desk.pause("run_a")
    assert "mulm runs resume run_a" in cast(Any, caught.value).hint
    assert ledger.run("run_a").phase == "failed"


def test_waiting_has_a_deadline_and_the_wish_stays(
    desk: RunDesk, ledger: Ledger, home: Home
) -> None:
    begin(ledger, "run_a", "running")
    with run_lock(home, "run_a"):
        with pytest.raises(DeadlineError):
            desk.pause("run_a", timeout_s=0.0)
        assert ledger.run("run_a").phase == "pausing"
        with pytest.raises(DeadlineError):
            desk.cancel("run_a", timeout_s=0.0)
        assert desk.one("run_a").run.phase == "cancelled"
        assert desk.one("run_a").is_living


def test_a_run_ends_where_it_is(desk: RunDesk, ledger: Ledger, home: Home) -> None:
    begin(ledger, "run_a", "running")
    with Process(home, ledger, lambda _: None):
        found = desk.cancel("run_a")
    assert (found.run.phase, (found.run.error or {})["code"]) == ("cancelled", "stopped")
    assert desk.cancel("run_a").run.phase == "cancelled"
    begin(ledger, "run_b", "paused")
    assert desk.cancel("run_b").run.phase == "cancelled"
    begin(ledger, "run_c", "running")  # its process is gone
    assert desk.one("run_c").is_lost
    assert desk.cancel("run_c").run.phase == "cancelled"
    for phase in ("succeeded", "failed"):
        begin(ledger, f"run_{phase}", phase)
        with pytest.raises(ConflictError, match=f"has {phase}"):
            desk.cancel(f"run_{phase}")


def test_no_end_is_overwritten(
    desk: RunDesk, ledger: Ledger, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(ledger, "run_a", "running")
    with run_lock(home, "run_a"):
        stands = desk.one("run_a")
        ledger.set_phase("run_a", "succeeded", result={})
        for look in ("one", "_one"):
            monkeypatch.setattr(desk, look, lambda *_: stands)
        for wish in (desk.pause, desk.cancel):
            with pytest.raises(ConflictError, match="run_a is succeeded by now"):
                wish("run_a")
    assert ledger.run("run_a").phase == "succeeded"


def test_the_job_of_a_cancelled_run_is_stopped_whatever_its_name(
    desk: RunDesk, ledger: Ledger, jobs: Jobs
) -> None:
    begin(ledger, "run_a", "running")
    ledger.append_events("run_a", [("started", {"job": "raysubmit_x"})])
    jobs.add("raysubmit_x")
    assert desk.one("run_a").is_living
    assert desk.cancel("run_a").run.phase == "cancelled"
    assert jobs.stopped == ["raysubmit_x"]


def test_a_job_that_has_no_run_yet_is_queued_and_can_be_cancelled(
    desk: RunDesk, ledger: Ledger, jobs: Jobs, home: Home
) -> None:
    home.run("run_new").mkdir(parents=True)
    (home.run("run_new") / "config.json").write_text('{"name": "fresh"}')
    jobs.add("run_new")
    jobs.add("run_gone", "FAILED")
    jobs.add("raysubmit_x")
    jobs.add("run_script")
    jobs.all["run_script"] = replace(jobs.all["run_script"], kind="")  # a program of the user's
    found = desk.all()
    assert [(one.run.id, one.run.phase, one.is_starting) for one in found] == [
        ("run_new", "queued", True)
    ]
    assert desk.find("fresh").run.id == "run_new"
    assert desk.all("prepare") == []
    with pytest.raises(ConflictError, match="only starting"):
        desk.pause("run_new")
    assert desk.cancel("run_new").run.phase == "cancelled"
    assert (jobs.stopped, ledger.run("run_new").config) == (["run_new"], {"name": "fresh"})
    for other in ("run_gone", "run_script"):
        with pytest.raises(NotFoundError):
            desk.one(other)


def test_a_resumed_run_is_queued_until_its_process_says_otherwise(
    desk: RunDesk, ledger: Ledger, jobs: Jobs
) -> None:
    begin(ledger, "run_a", "paused")
    jobs.add("run_a", "STOPPED")
    jobs.add("run_a-2")
    assert desk.one("run_a").run.phase == "queued"
    with pytest.raises(ConflictError, match="only starting"):
        desk.pause("run_a")


def test_an_end_between_two_looks_is_no_loss(
    desk: RunDesk, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(ledger, "run_a", "running")

    def ends(*_: object) -> bool:
        ledger.set_phase("run_a", "succeeded", result={})
        return False

    monkeypatch.setattr(run_desk, "is_held", ends)
    assert [one.run.phase for one in desk.all()] == ["succeeded"]


def test_the_newest_is_first(desk: RunDesk, home: Home, ledger: Ledger, jobs: Jobs) -> None:
    begin(ledger, "run_a", "succeeded")
    begin(ledger, "run_b", "running")
    ledger.create_run("run_p", "prepare", {})
    jobs.add("run_new")
    assert [one.run.id for one in desk.all()] == ["run_new", "run_p", "run_b", "run_a"]
    assert [one.run.phase for one in desk.all("train")] == ["queued", "failed", "succeeded"]
    assert ledger.run("run_b").phase == "running", "looking changes nothing"
    watch = RunWatch(desk, "run_b")
    assert (watch.has_ended(), watch.log_tail(2)) == (True, "last 2 of run_b")


def test_without_an_application_the_lock_tells(home: Home) -> None:
    with Ledger(home.ledger) as ledger:
        begin(ledger, "run_a", "paused")
    with open_desk(home) as desk:
        assert desk.cancel("run_a").run.phase == "cancelled"
        assert desk.log_tail("run_a", 3) == ""
        with pytest.raises(NotFoundError):
            desk.find("nobody")


def test_a_dashboard_that_hangs_makes_no_run_a_lost_one(
    desk: RunDesk, ledger: Ledger, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(ledger, "run_a", "running")
    assert desk.one("run_a").is_lost

    def hang() -> dict[str, Attempt]:
        raise DeadlineError("Ray's dashboard did not answer within 3 s")

    monkeypatch.setattr(jobs, "attempts", hang)
    [run] = ledger.runs()
    for found in (desk.one("run_a"), *desk.all(), *desk.stand([run]), desk.find("run_a")):
        assert (found.run.phase, found.is_living, found.is_lost) == ("running", True, False)
    with pytest.raises(DeadlineError):
        desk.ask_to_cancel("run_a")
    assert ledger.run("run_a").phase == "running"
    with pytest.raises(DeadlineError, match="whether run_b was submitted"):
        desk.one("run_b")
