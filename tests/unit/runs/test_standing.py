"""A run is told as what it is, whatever its process could still note."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mulm.errors import DataError, MulmError
from mulm.records import Phase, Run
from mulm.runs.standing import noted_error, standing

NOTED_S = 100.0


@dataclass(frozen=True)
class Job:
    is_living: bool
    started_s: float = NOTED_S - 10
    submission_id: str = "run_a"
    message: str = ""


def run(phase: Phase) -> Run:
    return Run("run_a", "train", {"name": "demo"}, phase, 0.0, NOTED_S)


@pytest.mark.parametrize("phase", ["queued", "running", "pausing", "finalizing"])
def test_a_held_lock_is_life(phase: Phase) -> None:
    found = standing(run(phase), is_held=True, job=None)
    assert (found.run.phase, found.is_living, found.is_starting, found.is_lost) == (
        phase, True, False, False,
    )  # fmt: skip


@pytest.mark.parametrize("phase", ["queued", "preparing", "running", "pausing", "finalizing"])
@pytest.mark.parametrize("job", [None, Job(is_living=False, message="exit code -9, last lines")])
def test_a_process_that_died_without_a_note_is_a_failure(phase: Phase, job: Job | None) -> None:
    found = standing(run(phase), is_held=False, job=job)
    assert (found.run.phase, found.is_living, found.is_lost) == ("failed", False, True)
    told = found.run.error or {}
    assert told["code"] == "job_failed"
    assert told["message"].startswith("its process died without a word")
    assert ("exit code -9" in told["message"]) == (job is not None)
    assert "run_a" in told["hint"]


@pytest.mark.parametrize("phase", ["paused", "succeeded", "failed", "cancelled"])
def test_a_rest_is_a_rest(phase: Phase) -> None:
    found = standing(run(phase), is_held=False, job=Job(is_living=False))
    assert (found.run.phase, found.is_living, found.is_lost) == (phase, False, False)


def test_a_job_that_lives_somewhere_else_is_life() -> None:
    found = standing(run("running"), is_held=False, job=Job(is_living=True))
    assert (found.run.phase, found.is_living, found.is_starting) == ("running", True, False)


@pytest.mark.parametrize(("started_s", "starts"), [(NOTED_S + 1, True), (NOTED_S - 1, False)])
def test_a_job_before_its_first_note_starts_and_after_its_last_one_ends(
    started_s: float, starts: bool
) -> None:
    found = standing(run("failed"), is_held=False, job=Job(True, started_s))
    assert found.is_living
    assert found.is_starting is starts
    assert found.run.phase == ("queued" if starts else "failed")


def test_the_error_of_a_run_is_the_one_that_was_raised() -> None:
    told = {"code": "data_invalid", "message": "m", "hint": "h"}
    error = noted_error(Run("run_a", "train", {}, "failed", 0.0, 0.0, None, told))
    assert (type(error), error.message, error.hint) == (DataError, "m", "h")
    assert type(noted_error(run("failed"))) is MulmError
