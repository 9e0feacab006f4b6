"""Samples: told as promised, cheap, and without any part in what is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.errors import ConfigError
from mulm.manifest import Manifest
from mulm.model.checkpoint import checkpoints
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset, tiny_model
from mulm.train import samples as samples_module
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.local import check_run
from mulm.train.loop import train
from mulm.train.metrics import Metrics
from mulm.train.objectives.pretraining import Pretraining
from mulm.train.result import TrainResult
from mulm.train.samples import Samples
from mulm.train.usage import Usage

Told = list[tuple[str, dict[str, Any]]]
PROMPTS = {"prompts": ["What comes after 7", "It is"], "max_tokens": 6}


class Ticks:
    """A clock on which every look takes so long."""

    def __init__(self, seconds: float) -> None:
        self.now_s, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now_s += self.seconds
        return self.now_s


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def dataset(store: Store, rows: Any, build_rows: Callable[..., Manifest]) -> Manifest:
    return build_rows(store, rows.chats)


def make_config(**changes: Any) -> TrainConfig:
    values = {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 8, "batch_tokens": 128,
        "seq_len": 16, "log_every": 1, "validate_every": 4, "checkpoint_every": 4,
        "precision": "fp32",
    }  # fmt: skip
    return TrainConfig.model_validate(values | changes)


def run(
    config: TrainConfig, store: Store, dataset: Manifest, folder: Path, **changes: Any
) -> tuple[TrainResult, Told]:
    told: Told = []
    context = LocalContext(
        store, dataset, folder, torch.device("cpu"),
        lambda kind, data: told.append((kind, dict(data))), lambda: False,
    )  # fmt: skip
    context = replace(context, **changes)
    return train(config, context), told


def samples(told: Told) -> list[dict[str, Any]]:
    return [data for kind, data in told if kind == "sample"]


def logs(told: Told, part: str) -> list[str]:
    return [data["text"] for kind, data in told if kind == "log" and part in data["text"]]


def test_samples_change_nothing_that_is_learned(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    asked = PROMPTS | {"every": 1, "temperature": 1.0}
    torch.manual_seed(1)
    told, events = run(make_config(samples=asked), store, dataset, tmp_path / "told")
    state = torch.get_rng_state()
    torch.manual_seed(1)
    silent, _ = run(make_config(samples=None), store, dataset, tmp_path / "silent")
    assert len(samples(events)) == 16
    weights = [store.load(r.model_id).blob("model.safetensors") for r in (told, silent)]
    assert weights[0] == weights[1]
    assert (told.loss, told.validation) == (silent.loss, silent.validation)
    ends = [checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("told", "silent")]
    tensors = [(end / "tensors.safetensors").read_bytes() for end in ends]
    assert tensors[0] == tensors[1]
    assert torch.equal(state, torch.get_rng_state())


def test_prompts_are_gone_on_with_at_validations(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    config = make_config(samples=PROMPTS)
    _, events = run(config, store, dataset, tmp_path / "one")
    told = samples(events)
    assert [(data["step"], data["prompt"]) for data in told] == [
        (step, prompt) for step in (4, 8) for prompt in PROMPTS["prompts"]  # type: ignore[attr-defined]
    ]  # fmt: skip
    assert all(set(data) == {"step", "prompt", "text"} for data in told)
    assert any(data["text"] for data in told)
    _, again = run(config, store, dataset, tmp_path / "two")
    assert samples(again) == told


def test_a_prompt_that_does_not_fit_is_refused_at_the_start(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"samples\.prompts: one has .* tokens"):
        run(make_config(samples={"prompts": ["a" * 900]}), store, dataset, tmp_path / "run")


def test_other_workers_generate_nothing(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples_module, "Engine", None)
    config, told = make_config(samples=PROMPTS), []  # type: ignore[var-annotated]
    context = LocalContext(
        store, dataset, tmp_path / "run", torch.device("cpu"),
        lambda kind, data: told.append((kind, dict(data))), lambda: False, rank=1, world_size=2,
    )  # fmt: skip
    model, metrics = tiny_model(), Metrics(context, config, 0, Usage(context.device))
    Samples(config, context, model, metrics).tell_if_due(model, 3, 4)
    assert not told


def test_given_prompts_end_before_other_workers_give_up(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    asked = {"prompts": ["It is"], "max_tokens": 40, "temperature": 0}
    clock = Ticks(1.0)
    _, events = run(make_config(samples=asked), store, dataset, tmp_path / "run", clock=clock)
    _, whole = run(make_config(samples=asked), store, dataset, tmp_path / "whole")
    for cut, full in zip(samples(events), samples(whole), strict=True):
        assert len(cut["text"]) < len(full["text"])
        assert full["text"].startswith(cut["text"])


def test_held_out_beginnings_where_time_allows(
    store: Store, dataset: Manifest, tmp_path: Path
) -> None:
    _, events = run(make_config(), store, dataset, tmp_path / "short")
    assert not samples(events), "a hundredth of this run's time is nothing"
    clock = Ticks(0.001)
    config = make_config(samples={"max_tokens": 4})
    context = LocalContext(
        store, dataset, tmp_path / "long", torch.device("cpu"), lambda *_: None, lambda: False
    )
    told: Told = []

    def slow(batch: Any) -> Any:
        clock.now_s += 30.0
        return batch

    class Slow(Pretraining):
        def micro_batches(self, step: int, start: int, stop: int) -> Any:
            return map(slow, super().micro_batches(step, start, stop))

    context = replace(
        context, clock=clock, on_event=lambda kind, data: told.append((kind, dict(data)))
    )
    train(config, context, Slow(config, context))
    assert len(samples(told)) == 4, "two prompts at each of two validations"
    assert all(data["prompt"] for data in samples(told))


def test_half_a_text_is_not_told_and_tried_again_with_twice_the_time(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, rooms, told = Ticks(0.0), [], []  # type: ignore[var-annotated]
    config = make_config(samples={"max_tokens": 10}, seq_len=16)
    context = LocalContext(
        store, dataset, tmp_path / "run", torch.device("cpu"),
        lambda kind, data: told.append((kind, dict(data))), lambda: False, clock,
    )  # fmt: skip
    model = tiny_model(config=config.shape(int(dataset.counts["vocab_size"])))
    metrics = Metrics(context, config, 0, Usage(context.device))
    watched, honest = Samples(config, context, model, metrics), Samples._tell

    def noting(self: Any, model: Any, step: int, room_s: float) -> None:
        rooms.append(round(room_s, 3))
        clock.seconds = 0.05  # two looks at the clock for each token
        honest(self, model, step, room_s)
        clock.seconds = 0.0

    monkeypatch.setattr(Samples, "_tell", noting)
    for now_s in (10.0, 25.0, 50.0, 400.0):
        clock.now_s = now_s
        watched.tell_if_due(model, 3, 4)
    metrics.close()
    assert rooms[0] == 0.1
    assert len(rooms) == 3, "at 25 s there was less than twice the time of the first try"
    assert rooms[1] >= 0.2
    assert {data["step"] for data in samples(told)} == {4}
    assert len(samples(told)) == 2, "only the last try had time for all"


def test_what_cannot_be_read_turns_them_off_with_one_word(store: Store, tmp_path: Path) -> None:
    stand_in = tiny_dataset(store)  # its tokenizer is none
    _, told = run(make_config(), store, stand_in, tmp_path / "run", clock=Ticks(10.0))
    assert len(logs(told, "no samples from now on")) == 1
    assert not samples(told)


def test_a_full_memory_turns_them_off(
    store: Store, dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(samples_module, "Engine", full)
    result, told = run(make_config(samples=PROMPTS), store, dataset, tmp_path / "run")
    assert result.steps == 8
    assert len(logs(told, "no samples from now on: CUDA out of memory")) == 1


def test_a_prompt_that_the_window_does_not_hold_is_found_before_anything_starts(
    store: Store, dataset: Manifest
) -> None:
    check_run(make_config(samples=PROMPTS), dataset, {}, store)
    asking = make_config(samples={"prompts": ["It is " * 200], "max_tokens": 6})
    with pytest.raises(ConfigError, match=r"samples\.prompts: one has"):
        check_run(asking, dataset, {}, store)
