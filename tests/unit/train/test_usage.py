"""Speed as a share of the peak, and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mulm.model.transformer import Transformer
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset, tiny_model
from mulm.train import usage
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.flops import flops_per_token
from mulm.train.objectives.reversal import SHAPE as REVERSAL_SHAPE
from mulm.train.usage import Usage

CPU = torch.device("cpu")


@pytest.fixture
def config() -> TrainConfig:
    values = {"name": "a", "dataset": "b", "seq_len": 16, "model": TINY_SHAPE}
    return TrainConfig.model_validate(values)


def context(tmp_path: Path, rank: int = 0, world_size: int = 1) -> LocalContext:
    store = Store(tmp_path)
    return LocalContext(
        store, tiny_dataset(store), tmp_path, CPU, lambda *_: None, lambda: False,
        rank=rank, world_size=world_size,
    )  # fmt: skip


def test_mfu_is_of_all_workers_together(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "run_peak", lambda *_: (1e9, "because"))
    model = tiny_model()
    used = Usage.of_run(config, context(tmp_path, world_size=2), model, torch.float32)
    numbers = used.numbers(100.0)
    assert numbers["mfu"] == round(100.0 * flops_per_token(model.config, 16) / 2e9, 4) > 0
    assert used.text == "MFU is of 0.002 TFLOP/s: because"
    assert used.numbers(None).keys() == {"memory_bytes"}


def test_no_mfu_without_its_arithmetic(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> tuple[float, str]:
        raise AssertionError

    monkeypatch.setattr(usage, "run_peak", never)
    other = Usage.of_run(config, context(tmp_path), Transformer(REVERSAL_SHAPE), torch.float32)
    assert other.numbers(100.0).keys() == {"memory_bytes"}
    assert other.text.startswith("no MFU")
    Usage.of_run(config, context(tmp_path, rank=1, world_size=2), tiny_model(), torch.float32)


def test_memory_grows_with_what_is_held() -> None:
    code = """
import torch
from mulm.train.usage import used_memory_bytes
before = used_memory_bytes(torch.device("cpu"))
held = torch.ones(1 << 24)
assert used_memory_bytes(torch.device("cpu")) >= before + held.nbytes // 2
"""  # in a process of its own: this one may hold what tests before have let go
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_peak_that_a_run_exceeds_is_measured_again() -> None:
    peaks = iter([80.0, 200.0])
    used = Usage(CPU, 10, 100.0, "measured", lambda: next(peaks))
    assert used.numbers(5.0)["mfu"] == 0.5
    assert used.numbers(15.0)["mfu"] == 0.75
    assert used.numbers(5.0)["mfu"] == 0.25


def test_no_share_above_the_whole_is_ever_told() -> None:
    n_asked = 0

    def again() -> float:
        nonlocal n_asked
        n_asked += 1
        return 90.0

    used = Usage(CPU, 10, 100.0, "measured", again)
    for _ in range(5):
        assert used.numbers(15.0).keys() == {"memory_bytes"}
    assert n_asked == 3
    assert Usage(CPU, 10, 100.0).numbers(15.0).keys() == {"memory_bytes"}
