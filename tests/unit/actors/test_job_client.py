from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from actors.dashboard import Dashboard
from actors.job_client import (
    Attempt,
    JobClient,
    JobWatch,
    attempts_by_run,
    newest_attempt,
    own_submission_id,
    reconcile,
)
from mulm.errors import DeadlineError, NotFoundError, NotRunningError
from mulm.ledger import Ledger


class FakeDashboard(Dashboard):
    """Keeps jobs in a list, as Ray does: an id is taken once and stays."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", "token")
        self.jobs: list[dict[str, Any]] = []

    def request(self, method: str, path: str, body: Any = None, timeout_s: float = 30.0) -> Any:
        parts = path.strip("/").split("/")[2:]
        if method == "POST" and not parts:
            assert body["submission_id"] not in [job["submission_id"] for job in self.jobs]
            self.jobs.append({**body, "status": "RUNNING", "message": ""})
            return {}
        if not parts:
            return [{"submission_id": None, "status": "RUNNING"}, *self.jobs]
        job = next(job for job in self.jobs if job["submission_id"] == parts[0])
        if parts[1] == "stop":
            job["status"] = "STOPPED"
            return {"stopped": True}
        return {"logs": "one\ntwo\nthree"}


@pytest.fixture
def ray() -> FakeDashboard:
    return FakeDashboard()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    yield ledger
    ledger.close()


def test_a_run_has_one_living_job(ray: FakeDashboard) -> None:
    jobs = JobClient(ray)
    assert jobs.submit("jobs.train", "run_a", Path("c.yaml")) == "run_a"
    assert jobs.submit("jobs.train", "run_a", Path("c.yaml")) == "run_a"
    jobs.stop("run_a")
    jobs.stop("run_a")
    assert jobs.wait("run_a", timeout_s=1.0) == "STOPPED"
    assert jobs.submit("jobs.train", "run_a", Path("c.yaml")) == "run_a-2"
    assert [job["submission_id"] for job in ray.jobs] == ["run_a", "run_a-2"]


def test_the_entrypoint_is_quoted(ray: FakeDashboard) -> None:
    JobClient(ray).submit("jobs.train", "run_a", Path("my file; rm.yaml"), Path("/a b"))
    entrypoint = ray.jobs[0]["entrypoint"]
    assert entrypoint.startswith("cd '/a b' && exec ")
    assert entrypoint.endswith(" -m jobs.train --config 'my file; rm.yaml' --run run_a")


def test_waiting_has_a_deadline(ray: FakeDashboard) -> None:
    jobs = JobClient(ray)
    with pytest.raises(NotFoundError) as unknown:
        jobs.wait("run_a", timeout_s=0.0)
    jobs.submit("jobs.train", "run_a", Path("c"))
    with pytest.raises(DeadlineError) as late:
        jobs.wait("run_a", timeout_s=0.0)
    assert unknown.value.hint
    assert late.value.hint
    assert jobs.has_ended("run_b")


def test_stop_all_asks_every_living_job(ray: FakeDashboard) -> None:
    jobs = JobClient(ray)
    assert jobs.stop_all(timeout_s=0.0) == []
    for run_id in ("run_a", "run_b"):
        jobs.submit("jobs.train", run_id, Path("c"))
    assert jobs.stop_all(timeout_s=1.0) == []
    assert [job["status"] for job in ray.jobs] == ["STOPPED", "STOPPED"]


def test_the_watch(ray: FakeDashboard) -> None:
    jobs = JobClient(ray)
    watch = JobWatch(jobs, "run_a")
    assert (watch.has_ended(), watch.log_tail(2)) == (True, "")
    jobs.submit("jobs.train", "run_a", Path("c"))
    assert (watch.has_ended(), watch.log_tail(2)) == (False, "two\nthree")


def test_attempts_count_as_numbers() -> None:
    ids = ["run_a-2", "run_a", "run_a-10", "run_ab-99", "xrun_a-50"]
    newest = newest_attempt("run_a", [{"submission_id": i, "status": "FAILED"} for i in ids])
    assert newest == Attempt("run_a-10", 10, "FAILED", "")
    assert newest_attempt("run_c", []) is None


@pytest.mark.parametrize(
    ("job", "phase", "text"),
    [
        (None, "failed", "the application ended"),
        (Attempt("run_a", 1, "FAILED", "exit code -9, last"), "failed", "word: exit code -9"),
        (Attempt("run_a", 1, "RUNNING", ""), "running", ""),
    ],
)
def test_reconcile(ledger: Ledger, job: Attempt | None, phase: str, text: str) -> None:
    ledger.create_run("run_a", "train", {})
    ledger.set_phase("run_a", "running")
    run = reconcile(ledger, ledger.run("run_a"), job)
    assert run.phase == phase
    assert text in (run.error or {"message": ""})["message"]


def test_reconcile_leaves_the_ended_alone(ledger: Ledger) -> None:
    before = ledger.create_run("run_a", "train", {})
    ledger.set_phase("run_a", "succeeded", result={"x": 1})  # between the reading and the asking
    run = reconcile(ledger, before, Attempt("run_a", 1, "SUCCEEDED", ""))
    assert (run.phase, run.result) == ("succeeded", {"x": 1})


def test_nobody_answers() -> None:
    with pytest.raises(NotRunningError):
        Dashboard("http://127.0.0.1:1", "t").request("GET", "/api/jobs/")


def test_a_dashboard_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.job_client._LOOK_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        jobs = JobClient(Dashboard(f"http://127.0.0.1:{silent.getsockname()[1]}", "t"))
        asks: tuple[Callable[[], object], ...] = (jobs.attempts, partial(jobs.log_tail, "run_a", 5))
        for ask in asks:
            with pytest.raises(DeadlineError):
                ask()


def test_reconcile_leaves_the_paused_alone(ledger: Ledger) -> None:
    ledger.create_run("run_a", "train", {})
    ledger.set_phase("run_a", "paused")
    assert reconcile(ledger, ledger.run("run_a"), None).phase == "paused"


def test_all_attempts_and_the_newest_of_each_run(ray: FakeDashboard) -> None:
    jobs = JobClient(ray)
    jobs.submit("jobs.train", "run_a", Path("c"))
    jobs.stop("run_a")
    jobs.submit("jobs.prepare", "run_a", Path("c"))
    ray.jobs.append({"submission_id": "raysubmit_x", "status": "RUNNING", "start_time": 1500})
    found = jobs.attempts()
    assert [(job.submission_id, job.kind, job.is_living) for job in found.values()] == [
        ("run_a", "train", False), ("run_a-2", "prepare", True), ("raysubmit_x", "", True),
    ]  # fmt: skip
    assert found["raysubmit_x"].started_s == 1.5
    newest = attempts_by_run(found.values())
    assert {run_id: job.submission_id for run_id, job in newest.items()} == {"run_a": "run_a-2"}
    jobs.stop_job("raysubmit_x")
    assert not jobs.attempts()["raysubmit_x"].is_living


def test_a_driver_knows_its_own_job() -> None:
    told = '{"runtime_env": {}, "metadata": {"job_submission_id": "run_a-2"}}'
    assert own_submission_id({"RAY_JOB_CONFIG_JSON_ENV_VAR": told}) == "run_a-2"
    for text in ("", "no JSON", "[]", '{"metadata": {}}'):
        assert own_submission_id({"RAY_JOB_CONFIG_JSON_ENV_VAR": text}) == ""
    assert own_submission_id({}) == ""
