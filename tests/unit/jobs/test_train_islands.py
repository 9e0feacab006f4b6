from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from jobs.entry import JobContext
from jobs.fleet import Fleet
from jobs.train_islands import _wait_for_others, plan_rounds
from mulm.errors import JobFailedError
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train.config import TrainConfig
from mulm.train.settled import SettledConfig
from mulm.train.settling import settle
from mulm.train.sync import outer_choice
from mulm.train.sync.outer_choice import Measured


class Remaining:
    """Two islands that hand in, the second at the second look."""

    def __init__(self, *, has_aggregator: bool = True) -> None:
        self.islands = ["a", "b"]
        self.n_followed = 0
        self._has_aggregator = has_aggregator

    def look(self) -> None:
        self.islands.pop()

    def follow_outer(self) -> None:
        self.n_followed += 1
        if not self._has_aggregator:
            raise JobFailedError("the aggregator has died and cannot begin again")


def wait_for(remaining: Remaining) -> None:
    _wait_for_others(cast("Fleet", remaining), 30.0)


def test_islands_that_hand_in_are_told_where_the_aggregator_is() -> None:
    remaining = Remaining()
    wait_for(remaining)
    assert (remaining.islands, remaining.n_followed) == ([], 2)


def test_they_are_not_waited_for_where_it_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    remaining = Remaining(has_aggregator=False)
    wait_for(remaining)
    assert remaining.islands == ["a"]
    assert "cannot begin again" in caplog.text


class Told:
    """A run's context, of which only what it says is looked at."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def emit(self, _kind: str, *, text: str) -> None:
        self.texts.append(text)


def settled(folder: Path, **diloco: Any) -> SettledConfig:
    store = Store(folder / "store")
    values = {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 10, "seq_len": 16,
        "batch_tokens": 64, "diloco": diloco,
    }  # fmt: skip
    return settle(TrainConfig.model_validate(values), store, tiny_dataset(store), {}).config


def planned(folder: Path, n_rounds: float | None, **diloco: Any) -> tuple[str, str]:
    told = Told()
    plan = plan_rounds(settled(folder, **diloco), folder, 2, n_rounds, cast("JobContext", told))
    (text,) = told.texts
    return plan.outer.kind, text


def test_how_shared_weights_move_is_told_and_stays_for_the_runs_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ones = (Measured(10, 2.0, 2.5), Measured(300, 1.5, 1.4))
    monkeypatch.setattr(outer_choice.choose_outer, "__defaults__", (long_ones,))
    kind, text = planned(tmp_path, 500)
    assert kind == "nesterov"
    assert "about 500 rounds are ahead" in text
    # Gone on with, where fewer are ahead, or nothing was measured this time.
    for again in (50, None):
        kind, text = planned(tmp_path, again)
        assert kind == "nesterov"
        assert "the run began with it" in text
    assert planned(tmp_path / "other", 50)[0] == "average"


def test_of_a_run_that_went_another_way_first_only_what_is_ahead_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.train_islands.checkpoints", lambda _: [Path("step-000008")])
    monkeypatch.setattr("jobs.train_islands.step_of", lambda _: 8)
    assert "about 100 rounds are ahead" in planned(tmp_path, 500)[1]


def test_an_outer_step_that_was_asked_for_is_planned(tmp_path: Path) -> None:
    assert planned(tmp_path, None, outer="nesterov")[0] == "nesterov"
