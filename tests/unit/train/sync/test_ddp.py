"""Two workers compute what one does, also when their rows are uneven."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

from mulm.manifest import Manifest
from mulm.model.checkpoint import newest_checkpoint
from mulm.model.microlm import MicroLM
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train import spikes
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.objectives.base import SummedLoss
from mulm.train.objectives.pretraining import Pretraining
from mulm.train.sync.ddp import buckets

CONFIG = TrainConfig.model_validate(
    {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 6, "batch_tokens": 80,
        "seq_len": 16, "precision": "fp32", "log_every": 1,
    }
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def masked(store: Store) -> Manifest:
    """A dataset of which some rows learn much and others little."""
    plain = tiny_dataset(store)
    n = plain.blob("train-00000.bin").rows
    mask = sum(1 << place for place in range(n) if place % 64 < 40 or place % 7 == 0)
    entry = store.put("train-00000.mask", mask.to_bytes((n + 7) // 8, "little"))
    dataset = plain.model_copy(update={"blobs": (*plain.blobs, entry)})
    store.save(dataset)
    return dataset


class OneBadRow(Pretraining):
    """In step 4 the last row's loss is a hundred times too high, which one worker sees."""

    def micro_batches(self, step: int, start: int, stop: int) -> Iterable[Any]:
        self.is_bad = step == 4 and stop == self.config.n_rows
        return super().micro_batches(step, start, stop)

    def loss(self, model: MicroLM, batch: Any, dtype: torch.dtype) -> SummedLoss:
        loss = super().loss(model, batch, dtype)
        if not self.is_bad:
            return loss
        last = super().loss(model, tuple(tensor[-1:] for tensor in batch), dtype)
        return SummedLoss(loss.total + 99 * last.total, loss.count)


def losses_of(root: Path, folder: str, rank: int, world_size: int) -> list[float]:
    store, losses = Store(root / "store"), []
    spikes.FIRST_STEPS = 3

    def on_event(kind: str, data: Any) -> None:
        if kind == "metric" and "loss" in data:
            losses.append(data["loss"])

    context = LocalContext(
        store, masked(store), root / folder, torch.device("cpu"), on_event, lambda: False,
        rank=rank, world_size=world_size,
    )  # fmt: skip
    train(CONFIG, context, OneBadRow(CONFIG, context))
    return losses


def worker(rank: int, world_size: int, port: int, root: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size
    )
    losses = losses_of(Path(root), "two", rank, world_size)
    distributed.destroy_process_group()
    if rank == 0:
        torch.save(torch.tensor(losses), Path(root) / "losses.pt")


@pytest.mark.slow
def test_two_workers_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where masks are uneven, and where one of them alone meets a spike."""
    monkeypatch.setattr(spikes, "FIRST_STEPS", 3)
    assert CONFIG.n_rows == 5, "an odd number of rows splits unevenly"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    alone = losses_of(tmp_path, "one", 0, 1)
    multiprocessing.spawn(worker, (2, free_port(), str(tmp_path)), nprocs=2)
    together = torch.load(tmp_path / "losses.pt").tolist()
    assert together == pytest.approx(alone, rel=1e-5)
    assert len(alone) == CONFIG.steps - 1, "both skipped the spike"
    one, two = (newest_checkpoint(tmp_path / name / "checkpoints") for name in ("one", "two"))
    assert one is not None
    assert two is not None
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(two.tensors[name], tensor, rtol=1e-3, atol=1e-4)


def test_buckets_keep_order_and_size() -> None:
    tensors = [torch.zeros(n) for n in (2, 3, 10, 1, 1)]
    cut = list(buckets(tensors, bucket_bytes=20))
    assert [[len(t) for t in bucket] for bucket in cut] == [[2, 3], [10], [1, 1]]
    assert list(buckets([], bucket_bytes=20)) == []
