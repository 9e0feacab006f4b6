"""What a run tells: mean speed without pauses, and TensorBoard files."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.store import Store
from mulm.testing import tiny_dataset
from mulm.train.context import LocalContext
from mulm.train.metrics import Metrics


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def context(tmp_path: Path, clock: Clock) -> LocalContext:
    store = Store(tmp_path / "store")
    return LocalContext(
        store, tiny_dataset(store), tmp_path / "run", torch.device("cpu"),
        lambda *_: None, lambda: False, clock,
    )  # fmt: skip


def test_speed_is_the_mean_of_this_life_without_pauses(context: LocalContext, clock: Clock) -> None:
    events: list[dict[str, Any]] = []
    context = replace(context, on_event=lambda _, data: events.append(dict(data)))
    metrics = Metrics(context, first_step=10, steps=40)
    assert metrics.tokens_per_s is None
    clock.now_s += 5.0
    metrics.step(20, 100, {"loss": 2.0})
    assert metrics.tokens_per_s == 200.0
    clock.now_s += 7.0
    metrics.pause_clock(7.0)
    clock.now_s += 15.0
    metrics.step(30, 100, {"loss": 1.0})
    metrics.close()
    assert metrics.tokens_per_s == 100.0
    speeds = [data["tokens_per_s"] for data in events if "tokens_per_s" in data]
    assert speeds == [200.0, pytest.approx(66.7)]
    assert events[-1]["eta_s"] == 15.0


def test_tensorboard_shows_what_the_ledger_has(
    context: LocalContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # Files of one second and one process are sorted by a count that is not padded: 10 before 9.
    files = importlib.import_module("tensorboard.summary.writer.event_file_writer")
    monkeypatch.setattr(files, "_global_uid", files.AtomicCounter(0))
    first = Metrics(context, 0, 4)
    for step in (1, 2, 3):
        first.metric(step, {"loss": 4.0 - step})
    first.close()
    resumed = Metrics(context, 2, 4)
    for step in (3, 4):
        resumed.metric(step, {"loss": 4.5 - step})
    resumed.close()
    shown = accumulator.EventAccumulator(str(context.folder / "tensorboard")).Reload()
    curve = {event.step: event.value for event in shown.Scalars("loss")}
    assert curve == {1: 3.0, 2: 2.0, 3: 1.5, 4: 0.5}


def test_other_workers_write_nothing(context: LocalContext) -> None:
    metrics = Metrics(replace(context, rank=1), 0, 4)
    metrics.metric(1, {"loss": 1.0})
    metrics.close()
    assert not context.folder.exists()
