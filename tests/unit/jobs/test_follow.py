import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.follow import follow, known_run, last_seq
from jobs.progress import Progress
from mulm.errors import DataError, JobFailedError, StoppedError
from mulm.ledger import Ledger

RUN = "run_1"


class Job:
    def __init__(self, ends_after: int | None = None) -> None:
        self.polls, self.ends_after = 0, ends_after

    def has_ended(self) -> bool:
        self.polls += 1
        return self.ends_after is not None and self.polls >= self.ends_after

    def log_tail(self, n_lines: int) -> str:
        return "Killed"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.create_run(RUN, "train", {})
        yield ledger


def run_follow(ledger: Ledger, job: Job, after: int = 0, steps=()) -> tuple[object, str]:
    stream, waiting = io.StringIO(), list(steps)

    def sleep(_seconds: float) -> None:
        assert waiting, "followed for ever"
        waiting.pop(0)()

    return follow(RUN, after, ledger, job, Progress(stream), sleep), stream.getvalue()


def test_shows_events_until_the_run_has_succeeded(ledger: Ledger) -> None:
    steps = [
        lambda: ledger.append_events(RUN, [("log", {"text": "hello"})]),
        lambda: ledger.set_phase(RUN, "succeeded", result={"model": "demo@1"}),
    ]
    run, shown = run_follow(ledger, Job(), steps=steps)
    assert run.result == {"model": "demo@1"}
    assert shown == "  hello\n"


def test_raises_what_the_run_failed_with(ledger: Ledger) -> None:
    ledger.set_phase(RUN, "failed", error={"code": "data_invalid", "message": "m", "hint": "h"})
    with pytest.raises(DataError, match="m") as caught:
        run_follow(ledger, Job())
    assert caught.value.hint == "h"


def test_a_cancelled_run_is_stopped_and_can_go_on(ledger: Ledger) -> None:
    ledger.set_phase(RUN, "cancelled")
    with pytest.raises(StoppedError):
        run_follow(ledger, Job())


def test_an_earlier_end_does_not_count(ledger: Ledger) -> None:
    ledger.set_phase(RUN, "failed", error={"code": "internal", "message": "m"})
    after = last_seq(ledger, RUN)
    run, _ = run_follow(
        ledger, Job(), after, steps=[lambda: ledger.set_phase(RUN, "succeeded", result={})]
    )
    assert run.phase == "succeeded"


def test_a_job_that_dies_without_a_word_is_noticed(ledger: Ledger) -> None:
    ledger.set_phase(RUN, "running")
    with pytest.raises(JobFailedError, match="died") as caught:
        run_follow(ledger, Job(ends_after=2), steps=[lambda: None] * 20)
    assert "Killed" in caught.value.hint


def test_a_job_that_finds_its_run_finished_adds_no_event(ledger: Ledger) -> None:
    ledger.set_phase(RUN, "succeeded", result={"model": "demo@1"})
    run, _ = run_follow(ledger, Job(ends_after=1), last_seq(ledger, RUN))
    assert run.result == {"model": "demo@1"}


def test_last_words_of_a_dead_job_are_still_read(ledger: Ledger) -> None:
    class Racing(Job):
        def has_ended(self) -> bool:
            ledger.set_phase(RUN, "succeeded", result={})
            return True

    run, _ = run_follow(ledger, Racing())
    assert run.phase == "succeeded"


def test_an_unknown_run_is_none(ledger: Ledger) -> None:
    assert known_run(ledger, "run_2") is None
    assert last_seq(ledger, "run_2") == 0


def test_a_paused_run_says_how_it_goes_on(ledger: Ledger) -> None:
    ledger.set_phase(RUN, "paused")
    with pytest.raises(StoppedError, match="was paused") as caught:
        run_follow(ledger, Job())
    assert "mulm runs resume run_1" in caught.value.hint
    with pytest.raises(StoppedError, match="was paused"):
        run_follow(ledger, Job(ends_after=1), last_seq(ledger, RUN))
