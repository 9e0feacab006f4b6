"""Rows at once: as asked, else what fills the device, else what fits."""

from __future__ import annotations

from typing import Any

from mulm.model.presets import preset
from mulm.train.config import TrainConfig
from mulm.train.micro_batch import choose_micro_batch, marked_last

BASE = preset("base", 32768)


def choose(device: str, memory_bytes: int | None, **changes: Any) -> tuple[int, str]:
    values = {"name": "a", "dataset": "b", "seq_len": 1024, "preset": "base"} | changes
    config = TrainConfig.model_validate(values)
    return choose_micro_batch(config, BASE, device, "bf16", memory_bytes)


def test_asked_for() -> None:
    assert choose("cuda", 8 << 30, micro_batch_rows=3) == (3, "asked for")


def test_fills_the_device() -> None:
    assert choose("cpu", None) == (4, "they fill a cpu")
    assert choose("cuda", 80 << 30) == (16, "they fill a cuda")


def test_fits_the_memory() -> None:
    rows, reason = choose("cuda", 24 << 30)
    assert 1 <= rows < 16
    assert "fits" in reason
    saving = {"activation_checkpointing": True, "optimizer": {"state_dtype": "int8"}}
    assert choose("cuda", 24 << 30, **saving)[0] > rows


def test_says_that_nothing_fits() -> None:
    rows, reason = choose("cuda", 1 << 30)
    assert rows == 1
    assert "mulm model plan" in reason


def test_the_last_of_a_step_is_marked() -> None:
    assert list(marked_last("abc")) == [("a", False), ("b", False), ("c", True)]
    assert list(marked_last("a")) == [("a", True)]
    assert list(marked_last("")) == []
