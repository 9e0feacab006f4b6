"""What becomes of a run whose job is not heard of any more, or not watched any more."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest

from actors.job_client import Attempt, JobClient, Status
from jobs import journey
from jobs.journey import Journey
from jobs.progress import Progress
from mulm.errors import StoppedError
from mulm.home import Home


@pytest.mark.parametrize(("status", "n_noted"), [("RUNNING", 0), ("PENDING", 0), ("FAILED", 1)])
def test_only_a_dead_job_is_noted_as_dead(
    home: Home, monkeypatch: pytest.MonkeyPatch, status: Status, n_noted: int
) -> None:
    class Jobs:
        def newest(self, run_id: str) -> Attempt:
            return Attempt(run_id, 1, status, "exit code -9")

    noted: list[Any] = []
    monkeypatch.setattr(journey, "write_fact", lambda *told, **_: noted.append(told[1:]))
    with Journey(home, cast(Progress, None)) as ours:
        ours._facts.create_run("run_a", "train", {})
        ours._note_death(cast(JobClient, Jobs()), "run_a")
    assert noted == [("set_phase", "run_a", "failed")] * n_noted


class Jobs:
    """Jobs of an application, and which of them were stopped."""

    def __init__(self) -> None:
        self.stopped: list[str] = []

    def newest(self, run_id: str) -> Attempt:
        return Attempt(run_id, 1, "RUNNING", "")

    def stop(self, run_id: str) -> None:
        self.stopped.append(run_id)

    def wait(self, _run_id: str, _timeout_s: float) -> None:
        pass


@pytest.mark.parametrize(
    ("during", "stops_jobs", "is_stopped"),
    [("follow", False, False), ("follow", True, True), ("submit", False, True)],
)
def test_ctrl_c_leaves_a_job_alone_that_was_submitted(
    home: Home, monkeypatch: pytest.MonkeyPatch, during: str, stops_jobs: bool, is_stopped: bool
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    jobs = Jobs()
    monkeypatch.setattr(journey, "submit", lambda *_: None)
    monkeypatch.setattr(journey, during, interrupt)
    monkeypatch.setattr(JobClient, "of", lambda *_: jobs)
    progress = Progress(io.StringIO())
    with (
        Journey(home, progress, stops_jobs=stops_jobs) as ours,
        pytest.raises(StoppedError) as caught,
    ):
        ours._run_job("train", cast(Any, None), "run_a", cast(Any, None), None)
    assert jobs.stopped == (["run_a"] if is_stopped else [])
    assert caught.value.message == f"run_a {'was stopped' if is_stopped else 'goes on, unwatched'}"
    assert is_stopped or "mulm runs watch run_a" in str(caught.value.hint)
