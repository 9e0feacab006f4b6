"""How workers will agree is told before a run as far as it is known, and no further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mulm.model.config import MicroLMConfig
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train.config import TrainConfig
from mulm.train.settled import SettledConfig
from mulm.train.settling import run_shape, settle
from mulm.train.sync.outlook import outlook

TWO = ["10.0.0.1", "10.0.0.2"]


def plan(folder: Path, **changes: Any) -> tuple[SettledConfig, MicroLMConfig]:
    store = Store(folder)
    dataset = tiny_dataset(store)
    values = {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 7, "seq_len": 16,
        "batch_tokens": 64, "precision": "fp32",
    }  # fmt: skip
    config = TrainConfig.model_validate(values | changes)
    settled = settle(config, store, dataset, {}).config
    return settled, run_shape(settled, store, dataset, {})


@pytest.mark.parametrize(
    ("changes", "machines", "strategy"),
    [
        ({}, TWO, "single"),
        ({"workers": 2}, TWO[:1], "ddp"),
        ({"workers": 2}, TWO, None),
        ({"workers": 2}, None, None),
        ({"workers": 2, "sync": "ddp"}, TWO, "ddp"),
        ({"workers": 2, "sync": "ddp_lowrank"}, None, "ddp_lowrank"),
        ({"sync": "diloco"}, TWO, "diloco"),
    ],
)
def test_what_is_known_is_told(
    tmp_path: Path, changes: dict[str, Any], machines: list[str] | None, strategy: str | None
) -> None:
    found = outlook(*plan(tmp_path, **changes), machines)
    assert found.strategy == strategy
    assert found.reason
    assert found.text.startswith(strategy or "measured when the run begins")


def test_what_is_measured_comes_with_the_ways_and_what_each_sends(tmp_path: Path) -> None:
    config, shape = plan(tmp_path, workers=2)
    large = shape.model_copy(update={"vocab_size": 1 << 20})
    n_mb = large.n_parameters / 1e6
    reason = outlook(config, large, TWO).reason
    assert "2 machines (10.0.0.1, 10.0.0.2)" in reason
    assert f"{4 * n_mb:,.1f} MB in fp32 or {2 * n_mb:,.1f} MB in bf16" in reason
    assert f"{1.015625 * n_mb:,.1f} MB in int8" in reason
    assert "averaging or momentum of the shared weights is chosen then" in reason
    assert "which machines there are is known then" in outlook(config, large, None).reason


def test_how_shared_weights_move_is_told(tmp_path: Path) -> None:
    islands = outlook(*plan(tmp_path, sync="diloco"), TWO).reason
    assert "the shared weights move by plain averaging: how many rounds" in islands
    asked = {"sync": "diloco", "diloco": {"outer": "nesterov"}}
    assert (
        "by Nesterov's momentum: the config asks" in outlook(*plan(tmp_path, **asked), TWO).reason
    )
    asked |= {"sync": "auto", "workers": 2}
    assert (
        "by Nesterov's momentum: the config asks" in outlook(*plan(tmp_path, **asked), TWO).reason
    )
