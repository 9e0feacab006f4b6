"""Lost workers are replaced a few times, and forgiven where the run has come on since."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)

from actors.train_context import WorkerOutcome
from jobs import losses
from jobs.entry import JobContext
from jobs.losses import MAX_LEAVES, MAX_RESTARTS, After, fit_again_if_lost
from jobs.train import explain_failure
from mulm.errors import (
    CorruptError,
    DataError,
    JobFailedError,
    MulmError,
    NoSpaceError,
    StoppedError,
)
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.store import Store

DONE = WorkerOutcome(result={"steps": 1})
STOPPED = WorkerOutcome(error=StoppedError("training stopped at step 5 of 9"))


@pytest.fixture
def context(home: Home) -> Iterator[JobContext]:
    ledger = Ledger(home.ledger)
    ledger.create_run("run_t", "train", {})
    yield JobContext("run_t", home, Store(home.store), ledger)
    ledger.close()


class Group:
    """Ends as it is told, and notes what came before each start."""

    def __init__(self, *ends: MulmError | WorkerOutcome) -> None:
        self.ends, self.afters = list(ends), list[After]()
        self.before_end: Callable[[], object] = lambda: None

    def fit(self, after: After) -> WorkerOutcome:
        self.afters.append(after)
        self.before_end()
        end = self.ends.pop(0)
        if isinstance(end, WorkerOutcome):
            return end
        raise end


def told(context: JobContext) -> list[str]:
    return [str(event.data["text"]) for event in context.facts.events("run_t", kinds=("log",))]


def test_lost_workers_are_replaced_a_few_times(context: JobContext) -> None:
    lost = [JobFailedError("lost") for _ in range(MAX_RESTARTS)]
    group = Group(*lost, DONE)
    assert fit_again_if_lost(group.fit, context) is DONE
    assert group.afters == ["nothing", "loss", "loss", "loss"]
    assert told(context)[-1] == "lost; starting again (3 of 3)"
    assert len(told(context)) == MAX_RESTARTS
    with pytest.raises(JobFailedError):
        fit_again_if_lost(Group(*lost, JobFailedError("lost"), DONE).fit, context)


def test_what_was_lost_before_the_newest_checkpoint_is_forgiven(context: JobContext) -> None:
    """A PC that is switched off every evening of a week."""
    group = Group(*(JobFailedError("lost") for _ in range(7)), DONE)
    folder = context.home.run("run_t") / "checkpoints"
    group.before_end = lambda: (folder / f"step-{len(group.afters):08d}").mkdir(parents=True)
    assert fit_again_if_lost(group.fit, context) is DONE
    assert set(told(context)) == {"lost; starting again (1 of 3)"}


@pytest.mark.parametrize("error", [NoSpaceError("full"), CorruptError("bad"), DataError("small")])
def test_an_error_of_ours_is_final(context: JobContext, error: MulmError) -> None:
    group = Group(error, DONE)
    with pytest.raises(type(error)):
        fit_again_if_lost(group.fit, context)
    assert group.afters == ["nothing"]


def test_workers_that_stop_unasked_go_on_with_others(context: JobContext) -> None:
    group = Group(STOPPED, DONE)
    assert fit_again_if_lost(group.fit, context) is DONE
    assert group.afters == ["nothing", "leave"]
    assert told(context) == [
        "training stopped at step 5 of 9 for machines that leave or come;"
        " going on with those that are there"
    ]


def test_leaves_are_no_losses_and_yet_have_an_end(context: JobContext) -> None:
    lost = [JobFailedError("lost") for _ in range(MAX_RESTARTS)]
    assert fit_again_if_lost(Group(STOPPED, *lost, STOPPED, DONE).fit, context) is DONE
    with pytest.raises(StoppedError):
        fit_again_if_lost(Group(*[STOPPED] * (MAX_LEAVES + 1), DONE).fit, context)


@pytest.mark.parametrize("phase", ["pausing", "cancelled"])
def test_a_run_that_was_asked_to_stop_stops(context: JobContext, phase: str) -> None:
    group = Group(STOPPED, DONE)
    context.facts.set_phase("run_t", phase)  # type: ignore[arg-type]
    assert fit_again_if_lost(group.fit, context) is STOPPED


def failed_to_start(failure: Exception) -> MulmError:
    error = ControllerError(failure)
    explained = explain_failure(error)
    explained.__cause__ = error
    return explained


def test_room_that_somebody_took_is_no_loss(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [failed_to_start(WorkerGroupStartupTimeoutError(2)) for _ in range(9)]
    group = Group(*taken, DONE)
    assert fit_again_if_lost(group.fit, context) is DONE
    assert set(group.afters) == {"nothing"}
    assert told(context) == ["the room for workers was taken meanwhile"]
    monkeypatch.setattr(losses, "ROOM_TIMEOUT_S", 3 * losses.PLACE_S)
    with pytest.raises(JobFailedError):
        fit_again_if_lost(Group(*taken).fit, context)


def test_a_machine_that_dies_while_workers_start_is_lost(context: JobContext) -> None:
    group = Group(failed_to_start(WorkerGroupStartupFailedError("died")), DONE)
    assert fit_again_if_lost(group.fit, context) is DONE
    assert group.afters == ["nothing", "loss"]
