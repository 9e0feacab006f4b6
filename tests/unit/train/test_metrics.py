"""What a run tells: mean speed without pauses and start-up, samples, and TensorBoard files."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train import metrics as metrics_module
from mulm.train import usage
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.exporters.background import Background
from mulm.train.loop import train
from mulm.train.metrics import OF_THE_MACHINE, Metrics
from mulm.train.usage import Usage

CPU = torch.device("cpu")
CONFIG = TrainConfig.model_validate(
    {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 40, "batch_tokens": 96,
        "seq_len": 16, "log_every": 1, "precision": "fp32", "samples": None,
    }
)  # fmt: skip
EveryEvent = Callable[[str], list[dict[str, Any]]]


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def events() -> list[tuple[str, dict[str, Any]]]:
    return []


@pytest.fixture
def of_kind(events: list[tuple[str, dict[str, Any]]]) -> EveryEvent:
    return lambda kind: [data for told, data in events if told == kind]


@pytest.fixture
def context(tmp_path: Path, clock: Clock, events: list[tuple[str, dict[str, Any]]]) -> LocalContext:
    store = Store(tmp_path / "store")
    return LocalContext(
        store, tiny_dataset(store), tmp_path / "run", CPU,
        lambda kind, data: events.append((kind, dict(data))), lambda: False, clock,
    )  # fmt: skip


def test_speed_is_the_mean_of_this_life_without_pauses(
    context: LocalContext, clock: Clock, of_kind: EveryEvent
) -> None:
    metrics = Metrics(context, CONFIG, 10, Usage(CPU))
    assert metrics.tokens_per_s is None
    clock.now_s += 4.8
    metrics.step(20, {"loss": 2.0})
    assert metrics.tokens_per_s == 200.0
    clock.now_s += 7.0
    metrics.pause_clock(7.0)
    clock.now_s += 14.4
    metrics.step(30, {"loss": 1.0})
    metrics.close()
    assert metrics.tokens_per_s == 100.0
    speeds = [data["tokens_per_s"] for data in of_kind("metric")]
    assert speeds == [200.0, pytest.approx(66.7)]
    assert of_kind("progress")[-1]["eta_s"] == 14.4


def test_start_up_is_not_counted(context: LocalContext, clock: Clock, of_kind: EveryEvent) -> None:
    metrics = Metrics(context, CONFIG, 0, Usage(CPU))
    clock.now_s += 60.0
    metrics.took_step(1)
    metrics.step(1, {"loss": 2.0})
    assert metrics.tokens_per_s is None
    for step in (2, 3):
        clock.now_s += 0.96
        metrics.took_step(step)
    metrics.step(3, {"loss": 1.0})
    clock.now_s += 9.6
    metrics.step(13, {"loss": 1.0})
    metrics.close()
    told = of_kind("metric")
    assert "tokens_per_s" not in told[0]
    assert [data["tokens_per_s"] for data in told[1:]] == [100.0, 100.0]
    assert metrics.tokens_per_s == 100.0


def test_mfu_and_memory_are_told(context: LocalContext, clock: Clock, of_kind: EveryEvent) -> None:
    metrics = Metrics(context, CONFIG, 0, Usage(CPU, 50, 10_000.0, "because"))
    clock.now_s += 0.96
    metrics.step(1, {"loss": 2.0})
    metrics.close()
    (told,) = of_kind("metric")
    assert told["mfu"] == 0.5
    assert told["memory_bytes"] > 1e6
    assert set(OF_THE_MACHINE) < told.keys()


def test_names_are_frozen(
    context: LocalContext, of_kind: EveryEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dashboards and scripts of people ask for them."""
    monkeypatch.setattr(usage, "run_peak", lambda *_: (1e30, "said"))  # the clock stands still
    train(CONFIG.model_copy(update={"steps": 3, "validate_every": 3}), context)
    names = set().union(*of_kind("metric"))
    assert names == {
        "step", "loss", "lr", "grad_norm", "tokens_per_s", "eta_s", "mfu", "memory_bytes",
        "validation_bits_per_byte",
    }  # fmt: skip
    assert [set(data) for data in of_kind("checkpoint")] == [{"step", "is_best"}]


def test_tensorboard_shows_what_the_ledger_has(
    context: LocalContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # Files of one second and one process are sorted by a count that is not padded: 10 before 9.
    files = importlib.import_module("tensorboard.summary.writer.event_file_writer")
    monkeypatch.setattr(files, "_global_uid", files.AtomicCounter(0))
    first = Metrics(context, CONFIG, 0, Usage(CPU))
    for step in (1, 2, 3):
        first.metric(step, {"loss": 4.0 - step})
    first.close()
    resumed = Metrics(context, CONFIG, 2, Usage(CPU))
    for step in (3, 4):
        resumed.metric(step, {"loss": 4.5 - step})
    resumed.sample(4, 1, "Once", "upon\n# a time")
    resumed.close()
    shown = accumulator.EventAccumulator(str(context.folder / "tensorboard")).Reload()
    curve = {event.step: event.value for event in shown.Scalars("loss")}
    assert curve == {1: 3.0, 2: 2.0, 3: 1.5, 4: 0.5}
    (sample,) = shown.Tensors("sample_1/text_summary")
    assert sample.tensor_proto.string_val == [b"    Once -> upon\n    # a time"]


def test_an_exporter_in_trouble_is_told_of_once(
    context: LocalContext, monkeypatch: pytest.MonkeyPatch, of_kind: EveryEvent
) -> None:
    def make() -> Any:
        raise OSError("no route")

    monkeypatch.setattr(metrics_module, "open_exporters", lambda *_: [Background("far", make)])
    result = train(CONFIG.model_copy(update={"steps": 3}), context)
    assert result.steps == 3
    told = [data["text"] for data in of_kind("log") if "far" in data["text"]]
    assert told == ["export to far: OSError: no route; training is not affected"]


def test_without_tensorboard_a_run_says_so(
    context: LocalContext, monkeypatch: pytest.MonkeyPatch, of_kind: EveryEvent
) -> None:
    monkeypatch.setattr(metrics_module, "has_package", lambda _: False)
    monkeypatch.setattr(metrics_module, "open_exporters", lambda *_: [])
    Metrics(context, CONFIG, 0, Usage(CPU)).close()
    assert of_kind("log") == [{"text": "no TensorBoard files: the tensorboard package is absent"}]


def test_other_workers_write_nothing(context: LocalContext) -> None:
    metrics = Metrics(replace(context, rank=1), CONFIG, 0, Usage(CPU))
    metrics.metric(1, {"loss": 1.0})
    metrics.close()
    assert not context.folder.exists()
