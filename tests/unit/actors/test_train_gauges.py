"""What Prometheus finds of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from actors.train_context import RayTrainContext
from actors.train_gauges import GAUGES, TrainGauges
from mulm.store import Store
from mulm.testing import tiny_dataset


class Recorder:
    """Stands for `ray.util.metrics.Gauge`."""

    def __init__(self, told: list[Any]) -> None:
        self.told = told
        self.tag_keys: set[tuple[str, ...]] = set()

    def __call__(self, name: str, *, description: str, tag_keys: tuple[str, ...]) -> Any:
        assert description.endswith(".")
        self.tag_keys.add(tag_keys)
        recorder = self

        class Set:
            def set(self, value: float, tags: dict[str, str]) -> None:
                recorder.told.append((name, value, tags))

        return Set()


def test_names_are_frozen() -> None:
    """People's dashboards ask for them."""
    assert {number: name for number, (name, _) in GAUGES.items()} == {
        "step": "mulm_train_step",
        "loss": "mulm_train_loss",
        "lr": "mulm_train_lr",
        "grad_norm": "mulm_train_grad_norm",
        "tokens_per_s": "mulm_train_tokens_per_s",
        "mfu": "mulm_train_mfu",
        "memory_bytes": "mulm_train_memory_bytes",
        "eta_s": "mulm_train_eta_s",
        "validation_bits_per_byte": "mulm_train_validation_bits_per_byte",
    }


def test_a_metric_event_sets_the_gauges_that_it_has_numbers_for(tmp_path: Path) -> None:
    told: list[Any] = []
    recorder, store = Recorder(told), Store(tmp_path)
    context = RayTrainContext(
        store, tiny_dataset(store), {}, tmp_path, torch.device("cpu"), 0, 2, None,
        TrainGauges("run_1", "demo", recorder),
    )  # fmt: skip
    context.emit("metric", {"step": 3, "loss": 1.5, "margin": 0.2})
    context.emit("progress", {"step": 9})
    tags = {"run": "run_1", "name": "demo"}
    assert told == [("mulm_train_step", 3.0, tags), ("mulm_train_loss", 1.5, tags)]
    assert recorder.tag_keys == {("run", "name")}
