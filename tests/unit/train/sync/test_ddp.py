"""Two workers compute what one does, whatever is sent early, unevenly split or computed twice."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from mulm.manifest import Manifest
from mulm.model.checkpoint import newest_checkpoint
from mulm.model.config import MicroLMConfig
from mulm.model.lora import adapt
from mulm.model.microlm import MicroLM
from mulm.store import Store
from mulm.testing import TINY, TINY_SHAPE, tiny_dataset, tiny_model
from mulm.train import spikes
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.loss import sum_cross_entropy
from mulm.train.objectives.base import SummedLoss
from mulm.train.objectives.pretraining import Pretraining
from mulm.train.optim import learned_parameters
from mulm.train.sync import ddp
from mulm.train.sync.ddp import DdpSync
from mulm.train.sync.single import SingleSync
from tests.unit.train.workers import Workers

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CONFIG = TrainConfig.model_validate(
    {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 6, "batch_tokens": 80,
        "seq_len": 16, "precision": "fp32", "log_every": 1,
    }
)  # fmt: skip
SMALL_BUCKETS = 4096
"""Bytes: some tensors of the tiny model share a bucket, others stand alone."""
N_ROWS, N_TOKENS = 5, 16


def ids_NT() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, TINY.vocab_size, (N_ROWS, N_TOKENS + 1), generator=generator)


def loss_of(model: MicroLM, ids_BT: Tensor) -> Tensor:
    hidden_ND = model(ids_BT[:, :-1]).flatten(0, 1)
    return sum_cross_entropy(hidden_ND, model.output_weight_VD, ids_BT[:, 1:].flatten())


def a_model(kind: str) -> MicroLM:
    changes = {"tie_embeddings": kind != "untied"}
    model = tiny_model(3, MicroLMConfig.model_validate(TINY.model_dump() | changes)).train()
    model.requires_grad_(True)
    if kind == "adapters":
        generator = torch.Generator().manual_seed(0)
        adapt(model, rank=2, scale=1.0, matrices=("q", "down"), generator=generator)
    return model


def gradients_of(
    model: MicroLM, sync: DdpSync | SingleSync, batches: list[Tensor], own: float, everyone: float
) -> list[Tensor]:
    for number, ids_BT in enumerate(batches, start=1):
        with sync.backward(is_last=number == len(batches)):
            loss_of(model, ids_BT).backward()  # type: ignore[no-untyped-call]
    norms_P = sync.mean_gradients(own, everyone)
    found = [p.grad for p in learned_parameters(model).values() if p.grad is not None]
    assert torch.equal(norms_P, torch.stack([gradient.norm() for gradient in found]))
    return found


def summed(rank: int, kind: str, how: dict[str, Any]) -> list[Tensor]:
    """This worker has one row, the other four in three pieces."""
    model = a_model(kind)
    sync = DdpSync(CPU, bucket_bytes=SMALL_BUCKETS, **how)
    sync.attach(list(learned_parameters(model).values()))
    ids = ids_NT()
    mine = [ids[:1]] if rank == 0 else [ids[1:3], ids[3:4], ids[4:]]
    for _ in range(2):  # a step that was passed over leaves nothing behind
        sync.drop()
        model.zero_grad(set_to_none=True)
        for number, ids_BT in enumerate(mine, start=1):
            with sync.backward(is_last=number == len(mine)):
                loss_of(model, ids_BT).backward()  # type: ignore[no-untyped-call]
    own = N_TOKENS * (1.0 if rank == 0 else 4.0)
    sync.mean_gradients(own, float(N_ROWS * N_TOKENS))
    return [p.grad for p in learned_parameters(model).values() if p.grad is not None]


def alone(kind: str) -> list[Tensor]:
    model, sync = a_model(kind), SingleSync()
    sync.attach(list(learned_parameters(model).values()))
    n = float(N_ROWS * N_TOKENS)
    return gradients_of(model, sync, [ids_NT()], n, n)


@pytest.mark.parametrize("kind", ["tied", "untied", "adapters"])
def test_early_sums_are_late_sums_bit_for_bit(workers: Workers, kind: str) -> None:
    early, late = (workers.run(summed, kind, {"overlaps": overlaps}) for overlaps in (True, False))
    for a, b, c, d, one in zip(*early, *late, alone(kind), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        assert torch.equal(a, d)
        torch.testing.assert_close(a, one, rtol=1e-4, atol=1e-6)


def test_gradients_may_travel_in_bf16(workers: Workers) -> None:
    ours, theirs = workers.run(summed, "tied", {"wire_dtype": torch.bfloat16})
    for a, b, exact in zip(ours, theirs, alone("tied"), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == torch.float32
        assert float((a - exact).norm() / exact.norm()) < 0.01
    assert not torch.equal(ours[0], alone("tied")[0])


def sent_during_backward(rank: int) -> tuple[int, list[int], int]:
    """Buckets, how many had gone when each went off, and when the way back ended."""
    sent: list[int] = []
    honest = ddp._send

    def counted(owner: int | None, flat_N: Tensor) -> distributed.Work:
        sent.append(sum(bucket.is_begun for bucket in sync._buckets))
        return honest(owner, flat_N)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ddp, "_send", counted)
        model, sync = a_model("tied"), DdpSync(CPU, bucket_bytes=SMALL_BUCKETS)
        return _sent(model, sync, sent)


def _sent(model: MicroLM, sync: DdpSync, sent: list[int]) -> tuple[int, list[int], int]:
    parameters = list(learned_parameters(model).values())
    sync.attach(parameters)
    with sync.backward(is_last=False):
        loss_of(model, ids_NT()).backward()  # type: ignore[no-untyped-call]
    assert not sent
    with sync.backward(is_last=True):
        loss_of(model, ids_NT()).backward()  # type: ignore[no-untyped-call]
        n_early = len(sent)
    sync.mean_gradients(1.0, 2.0)
    assert any(p is model.embedding.weight for p in sync._buckets[-1].parameters)
    return len(sync._buckets), sent, n_early


def test_each_bucket_goes_off_once_in_order_while_gradients_are_computed(workers: Workers) -> None:
    for n_buckets, sent, n_early in workers.run(sent_during_backward):
        assert n_buckets > 5
        assert sent == list(range(n_buckets))
        assert n_early == n_buckets


def computed_again(rank: int, fails_at: int) -> list[Tensor]:
    """On worker 0 memory runs out when it is at its n-th bucket; it takes single rows then."""
    asked, honest = count(), ddp._send

    def failing(owner: int | None, flat_N: Tensor) -> distributed.Work:
        if rank == 0 and next(asked) == fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return honest(owner, flat_N)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ddp, "_send", failing)
        return _computed_again(rank, DdpSync(CPU, bucket_bytes=SMALL_BUCKETS))


def _computed_again(rank: int, sync: DdpSync) -> list[Tensor]:
    model = a_model("tied")
    sync.attach(list(learned_parameters(model).values()))
    mine = ids_NT()[:3] if rank == 0 else ids_NT()[3:]
    own, everyone = float(len(mine) * N_TOKENS), float(N_ROWS * N_TOKENS)
    try:
        return gradients_of(model, sync, [mine], own, everyone)
    except torch.OutOfMemoryError:
        model.zero_grad(set_to_none=True)
        return gradients_of(model, sync, list(mine.split(1)), own, everyone)


@pytest.mark.parametrize("fails_at", [0, 3, 8])
def test_gradients_that_are_computed_again_count_once(workers: Workers, fails_at: int) -> None:
    ours, theirs = workers.run(computed_again, fails_at)
    for a, b, one in zip(ours, theirs, alone("tied"), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, one, rtol=1e-4, atol=1e-6)


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


def losses_of(rank: int, root: str, folder: str, world_size: int) -> list[float]:
    store, losses = Store(Path(root) / "store"), list[float]()
    first_steps, spikes.FIRST_STEPS = spikes.FIRST_STEPS, 3

    def on_event(kind: str, data: Any) -> None:
        if kind == "metric" and "loss" in data:
            losses.append(data["loss"])

    context = LocalContext(
        store, masked(store), Path(root) / folder, CPU, on_event, lambda: False,
        rank=rank, world_size=world_size,
    )  # fmt: skip
    try:
        train(CONFIG, context, OneBadRow(CONFIG, context))
    finally:
        spikes.FIRST_STEPS = first_steps
    return losses


def test_two_workers_equal_one(workers: Workers, tmp_path: Path) -> None:
    """Also where masks are uneven, and where one of them alone meets a spike."""
    assert CONFIG.n_rows == 5, "an odd number of rows splits unevenly"
    alone = losses_of(0, str(tmp_path), "one", 1)
    together = workers.run(losses_of, str(tmp_path), "two", 2)[0]
    assert together == pytest.approx(alone, rel=1e-5)
    assert len(alone) == CONFIG.steps - 1, "both skipped the spike"
    one, two = (newest_checkpoint(tmp_path / name / "checkpoints") for name in ("one", "two"))
    assert one is not None
    assert two is not None
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(two.tensors[name], tensor, rtol=1e-3, atol=1e-4)
