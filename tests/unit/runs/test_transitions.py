"""Every phase and every wish: something to do, nothing to do, or a reason why not."""

from __future__ import annotations

import pytest

from mulm.errors import ConflictError
from mulm.records import Phase, Run
from mulm.runs.standing import Standing
from mulm.runs.transitions import UNDER_WAY, may_cancel, may_pause, may_resume


def stands(
    phase: Phase, *, living: bool, starting: bool = False, lost: bool = False, kind: str = "train"
) -> Standing:
    error = {"code": "no_space", "message": "the disk is full"} if phase == "failed" else None
    run = Run("run_a", kind, {}, phase, 0.0, 0.0, None, error)
    return Standing(run, is_living=living, is_starting=starting, is_lost=lost)


@pytest.mark.parametrize("phase", sorted(UNDER_WAY))
def test_what_is_under_way_can_be_paused_and_cancelled_and_goes_on_by_itself(phase: Phase) -> None:
    found = stands(phase, living=True)
    assert may_pause(found)
    assert may_cancel(found)
    assert not may_resume(found)


def test_a_paused_run_is_paused_and_can_go_on_or_end() -> None:
    found = stands("paused", living=False)
    assert not may_pause(found)
    assert may_cancel(found)
    assert may_resume(found)


def test_a_pausing_run_waits_for_its_process() -> None:
    found = stands("pausing", living=True)
    assert not may_pause(found)
    assert may_cancel(found)
    with pytest.raises(ConflictError, match="still ends"):
        may_resume(found)


def test_success_is_final() -> None:
    for wish in (may_pause, may_cancel, may_resume):
        with pytest.raises(ConflictError, match="run_a has succeeded: there is nothing to"):
            wish(stands("succeeded", living=False))


def test_a_failed_run_can_only_go_on() -> None:
    found = stands("failed", living=False)
    assert may_resume(found)
    for wish in (may_pause, may_cancel):
        with pytest.raises(ConflictError, match="the disk is full") as caught:
            wish(found)
        assert "mulm runs resume run_a" in caught.value.hint


def test_a_lost_run_can_go_on_or_be_given_up() -> None:
    found = stands("failed", living=False, lost=True)
    assert may_cancel(found)
    assert may_resume(found)


def test_a_cancelled_run_goes_on_only_if_that_is_said() -> None:
    found = stands("cancelled", living=False)
    assert not may_cancel(found)
    assert may_resume(found, also_cancelled=True)
    with pytest.raises(ConflictError, match="was cancelled") as caught:
        may_resume(found)
    assert "--cancelled" in caught.value.hint
    with pytest.raises(ConflictError, match="nothing to pause"):
        may_pause(found)
    with pytest.raises(ConflictError, match="still ends"):
        may_resume(stands("cancelled", living=True), also_cancelled=True)


def test_a_process_that_only_starts_cannot_pause() -> None:
    found = stands("queued", living=True, starting=True)
    with pytest.raises(ConflictError, match="only starting"):
        may_pause(found)
    assert may_cancel(found)
    assert not may_resume(found)


def test_a_kind_that_nobody_knows_is_not_resumed() -> None:
    with pytest.raises(ConflictError, match="a dream run"):
        may_resume(stands("failed", living=False, kind="dream"))
