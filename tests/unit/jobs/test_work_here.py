"""Training in the command's own process: asked to stop at any stage, nothing is lost."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobs import work_here as stage
from jobs.progress import Progress
from jobs.work_here import work_here
from mulm.errors import StoppedError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.model.checkpoint import checkpoints
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train import local
from mulm.train.config import TrainConfig
from mulm.train.objectives.microlm import OnMicroLM
from mulm.train.objectives.pretraining import Pretraining

CONFIG = TrainConfig.model_validate(
    {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 8, "batch_tokens": 64,
        "seq_len": 16, "precision": "fp32", "device": "cpu", "checkpoint_every": 3,
        "validate_every": 4,
    }
)  # fmt: skip
AT_STAGE = {
    "start-up": (local, "resolve_dataset"),
    "a step": (Pretraining, "loss"),
    "validation": (Pretraining, "validate"),
    "the final store": (OnMicroLM, "store"),
}


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as `jobs.cli.main` does
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _dataset(home: Home) -> None:
    with Ledger(home.ledger) as ledger:
        ledger.publish("dataset", "tiny", tiny_dataset(Store(home.store)).id)


def train(home: Home, run_id: str) -> dict[str, Any]:
    return work_here("train", CONFIG, run_id, home, Progress(io.StringIO()))


def phase_of(home: Home, run_id: str) -> str:
    with Ledger(home.ledger) as ledger:
        return ledger.run(run_id).phase


def once(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Do something the first time that a stage is reached."""
    owner, attribute = AT_STAGE[name]
    honest, is_left = getattr(owner, attribute), [True]

    def acting(*arguments: Any, **named: Any) -> Any:
        if is_left:
            is_left.clear()
            act()
        return honest(*arguments, **named)

    monkeypatch.setattr(owner, attribute, acting)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("name", "step"), [("start-up", 0), ("a step", 0), ("validation", 4)])
def test_a_stop_request_ends_between_two_steps_with_a_checkpoint(
    home: Home, monkeypatch: pytest.MonkeyPatch, name: str, step: int, number: signal.Signals
) -> None:
    whole = train(home, "run_whole")
    once(monkeypatch, name, lambda: signal.raise_signal(number))
    with pytest.raises(StoppedError, match=f"step {step} of 8"):
        train(home, "run_cut")
    assert phase_of(home, "run_cut") == "paused"
    newest = checkpoints(home.run("run_cut") / "checkpoints")[-1].name
    assert newest == f"step-{step:08d}"
    assert train(home, "run_cut")["model_id"] == whole["model_id"]
    assert phase_of(home, "run_cut") == "succeeded"


def test_asked_while_the_model_is_stored_it_ends_with_the_model(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, "the final store", lambda: signal.raise_signal(signal.SIGINT))
    result = train(home, "run_a")
    assert phase_of(home, "run_a") == "succeeded"
    assert Store(home.store).load(result["model_id"]).counts["steps"] == 8


@pytest.mark.parametrize("name", list(AT_STAGE))
def test_the_second_request_ends_at_once_and_nothing_written_is_lost(
    home: Home, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    whole = train(home, "run_whole")
    once(monkeypatch, name, twice)
    with pytest.raises(KeyboardInterrupt):
        train(home, "run_cut")
    assert phase_of(home, "run_cut") == "paused"
    assert train(home, "run_cut")["model_id"] == whole["model_id"]


def test_the_handlers_are_those_from_before(home: Home) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with stage._stop_on_interrupt() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
