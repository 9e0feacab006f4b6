"""What is noted of a run whose job is not heard of any more."""

from __future__ import annotations

from typing import Any, cast

import pytest

from actors.job_client import Attempt, JobClient, Status
from jobs import journey
from jobs.journey import Journey
from jobs.progress import Progress
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
