"""What a machine cannot hold is refused before it is allocated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mulm.errors import DeviceError
from mulm.store import Store
from mulm.testing import TINY, TINY_SHAPE, tiny_dataset
from mulm.train import host_memory
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.host_memory import own_bytes, require_host_memory
from mulm.train.loop import train
from mulm.train.memory import step_memory
from mulm.train.placement import EVERYTHING_HERE, step_choices

CONFIG = TrainConfig(name="a", dataset="b", model=TINY_SHAPE, seq_len=16, batch_tokens=128)


def test_what_fits_exactly_is_let_through() -> None:
    needed = step_memory(TINY, step_choices(CONFIG, "cpu", "fp32", 1, EVERYTHING_HERE)).peak_bytes
    require_host_memory(CONFIG, TINY, "fp32", 100, needed + 100)
    with pytest.raises(DeviceError, match="GB of memory, this machine has"):
        require_host_memory(CONFIG, TINY, "fp32", 100, needed + 99)


def test_a_container_has_less_than_its_machine(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    physical = own_bytes(limit)
    for text in ("max\n", str(physical * 2)):
        limit.write_text(text)
        assert own_bytes(limit) == physical
    limit.write_text("1000\n")
    assert own_bytes(limit) == 1000


def test_a_run_that_cannot_fit_ends_before_it_allocates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    dataset, device = tiny_dataset(store), torch.device("cpu")
    monkeypatch.setattr(host_memory, "own_bytes", lambda: 1000)
    context = LocalContext(store, dataset, tmp_path / "run", device, lambda *_: None, bool)
    with pytest.raises(DeviceError, match=r"this machine has 0\.0 GB"):
        train(CONFIG, context)
