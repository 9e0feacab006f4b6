"""Sums of low rank: exact where the rank suffices, and nothing is lost where it does not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.loop import train
from mulm.train.sync.ddp_lowrank import DdpLowRankSync
from mulm.train.sync.low_rank import LowRank, by_shape, orthonormal
from tests.unit.train.workers import N_WORKERS, Workers

CPU = torch.device("cpu")
COUNTS = (3.0, 5.0)
SHAPES = [(24, 16), (24, 16), (16, 40), (16, 2, 20), (4, 4), (16,)]
"""Two that go together, two more of one flat shape, and two that travel whole."""
N_STEPS = 6
RUN = {
    "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 12, "batch_tokens": 80,
    "seq_len": 16, "precision": "fp32", "log_every": 1, "sync": "ddp_lowrank",
    "lowrank": {"rank": 2}, "workers": 2,
}  # fmt: skip


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape)) for shape in SHAPES]


def gradients(rank: int, step: int) -> list[Tensor]:
    """Of a worker's summed losses: a different matrix of full rank each time."""
    generator = torch.Generator().manual_seed(100 * rank + step)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def exact(step: int) -> list[Tensor]:
    return [sum(of_all) / sum(COUNTS) for of_all in zip(*map(_at(step), range(2)), strict=True)]


def _at(step: int) -> Any:
    return lambda rank: gradients(rank, step)


def taken(sync: DdpLowRankSync, own: list[nn.Parameter], rank: int, step: int) -> list[Tensor]:
    for parameter, gradient in zip(own, gradients(rank, step), strict=True):
        parameter.grad = gradient.clone()
    norms_P = sync.mean_gradients(COUNTS[rank], sum(COUNTS))
    found = [p.grad.clone() for p in own if p.grad is not None]
    assert torch.equal(norms_P, torch.stack([gradient.norm() for gradient in found]))
    sync.after_step()
    return found


def some_steps(rank: int, columns: int, wire: torch.dtype) -> tuple[list[Any], list[Tensor]]:
    """What each step returned, and what is unsent at the end."""
    sync, own = DdpLowRankSync(CPU, columns, wire_dtype=wire), parameters()
    sync.attach(own)
    steps = [taken(sync, own, rank, step) for step in range(N_STEPS)]
    return steps, [matrices.unsent_GMN for matrices in sync._matrices]


@pytest.mark.slow
@pytest.mark.parametrize(("wire", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_what_came_and_what_is_unsent_is_all_that_was_there(
    workers: Workers, wire: torch.dtype, near: float
) -> None:
    (ours, unsent), (theirs, other) = workers.run(some_steps, 2, wire)
    for one, same in zip(ours, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert [x.shape for x in unsent] == [(2, 24, 16), (2, 16, 40)]
    left = [unsent[0][0] + other[0][0], unsent[0][1] + other[0][1]]
    left += [unsent[1][0] + other[1][0], (unsent[1][1] + other[1][1]).view(16, 2, 20)]
    left += [torch.zeros(4, 4), torch.zeros(16)]
    for place, rest in enumerate(left):
        came = sum(step[place] for step in ours)
        there = sum(exact(step)[place] for step in range(N_STEPS))
        torch.testing.assert_close(came + rest, there, rtol=near, atol=near)
    # It is of low rank, so a single step is not the exact one.
    assert torch.linalg.matrix_rank(ours[0][0]) == 2
    assert (ours[0][0] - exact(0)[0]).norm() > 0.3 * exact(0)[0].norm()


def narrow_step(rank: int) -> tuple[Tensor, Tensor]:
    """Gradients of rank 1 on each worker: two columns stand for their sum."""
    sync, own = DdpLowRankSync(CPU, 2), [nn.Parameter(torch.zeros(24, 16))]
    sync.attach(own)
    column, row = torch.arange(24.0) - 7 * rank, torch.linspace(-1, 1, 16) ** (rank + 1)
    own[0].grad = torch.outer(column, row)
    mine = own[0].grad.clone()
    sync.mean_gradients(1.0, 4.0)
    assert own[0].grad is not None
    return mine, own[0].grad


@pytest.mark.slow
def test_where_the_rank_suffices_the_sum_is_exact(workers: Workers) -> None:
    (mine, summed), (theirs, same) = workers.run(narrow_step)
    assert torch.equal(summed, same)
    torch.testing.assert_close(summed, (mine + theirs) / 4)


def numbers_sent(rank: int) -> list[int]:
    """The sizes of all messages of a step."""
    sync, own, sizes = DdpLowRankSync(CPU, 2), parameters(), list[int]()
    sync.attach(own)
    with pytest.MonkeyPatch.context() as patched:
        for name in ("reduce", "broadcast", "all_reduce"):
            honest = getattr(distributed, name)

            def counted(x_N: Tensor, *to: int, honest: Any = honest) -> None:
                sizes.append(x_N.numel())
                honest(x_N, *to)

            patched.setattr(distributed, name, counted)
        taken(sync, own, rank, 0)
    return sizes


@pytest.mark.slow
def test_three_messages_of_a_few_columns_travel(workers: Workers) -> None:
    left, right, whole = 2 * (2 * 24 + 2 * 16), 2 * (2 * 16 + 2 * 40), 4 * 4 + 16
    for sizes in workers.run(numbers_sent):
        assert sizes == [left, left, right + whole]


def after_nonsense(rank: int) -> tuple[float, list[Tensor]]:
    sync, own = DdpLowRankSync(CPU, 2), parameters()
    sync.attach(own)
    taken(sync, own, rank, 0)
    for parameter in own:
        parameter.grad = torch.full_like(parameter, math.inf if rank else 1.0)
    norm = float(sync.mean_gradients(COUNTS[rank], sum(COUNTS)).norm())
    sync.drop()
    return norm, taken(sync, own, rank, 1)


@pytest.mark.slow
def test_numbers_that_are_not_finite_spoil_one_step(workers: Workers) -> None:
    (norm, ours), (other, theirs) = workers.run(after_nonsense)
    assert not math.isfinite(norm)
    assert not math.isfinite(other)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()
        assert a.abs().sum() > 0


def trained(rank: int, root: str, world_size: int) -> tuple[list[float], list[str]]:
    store, losses, logs = Store(Path(root) / "store"), list[float](), list[str]()

    def on_event(kind: str, data: Any) -> None:
        if kind == "metric" and "loss" in data:
            losses.append(data["loss"])
        if kind == "log":
            logs.append(data["text"])

    context = LocalContext(
        store, tiny_dataset(store), Path(root) / f"run-{world_size}-{rank}", CPU, on_event,
        lambda: False, rank=rank, world_size=world_size,
    )  # fmt: skip
    train(TrainConfig.model_validate(RUN), context)
    return losses, logs


@pytest.mark.slow
def test_a_run_learns_by_sums_of_low_rank(workers: Workers, tmp_path: Path) -> None:
    (losses, logs), _ = workers.run(trained, str(tmp_path), N_WORKERS)
    assert losses[-1] < losses[0] - 1
    assert any("ddp_lowrank: gradients of rank 2 are summed every step" in text for text in logs)


def test_one_worker_sums_nothing(tmp_path: Path) -> None:
    _, logs = trained(0, str(tmp_path), 1)
    assert any("single: one worker" in text for text in logs)


def test_a_matrix_that_factors_do_not_shrink_travels_whole() -> None:
    square = [nn.Parameter(torch.zeros(size, size)) for size in (7, 8, 64)]
    matrices, whole = by_shape(square, 2)
    assert [m.parameters for m in matrices] == [[square[1]], [square[2]]]
    assert whole == square[:1]
    assert not by_shape(square, 65)[0]


def test_columns_that_depend_on_each_other_become_orthonormal() -> None:
    left_GMR = torch.zeros(2, 9, 3)
    left_GMR[0] = torch.arange(9.0)[:, None]
    found_GMR = orthonormal(left_GMR)
    torch.testing.assert_close(found_GMR.mT @ found_GMR, torch.eye(3).expand(2, 3, 3))


def test_a_matrix_is_looked_at_where_it_was_large() -> None:
    """Steps of the same gradient find its largest directions, as iterations of a power do."""
    wide = torch.diag(torch.tensor([9.0, 8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]))
    matrices = LowRank([nn.Parameter(torch.zeros(8, 8))], 2, seed=0)
    for _ in range(4):
        matrices.parameters[0].grad = wide.clone()
        left = orthonormal(matrices.take(1.0))
        matrices.give(left, matrices.split(left))
    gradient = matrices.parameters[0].grad
    assert gradient is not None
    torch.testing.assert_close(gradient[:2, :2], wide[:2, :2], rtol=0, atol=0.6)


def test_one_gradient_that_is_far_too_large_governs_few_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    matrices, norms = LowRank([nn.Parameter(torch.zeros(64, 64))], 8, seed=0), list[float]()
    for step in range(40):
        gradient = torch.randn(64, 64, generator=generator) * (1000 if step == 10 else 1)
        matrices.parameters[0].grad = gradient
        left = orthonormal(matrices.take(1.0))
        matrices.give(left, matrices.split(left))
        assert matrices.parameters[0].grad is not None
        norms.append(float(matrices.parameters[0].grad.norm()))
    assert norms[10] > 300 * norms[9]
    assert norms[11] < 40 * norms[9]
    assert norms[39] < 5 * norms[9]


def test_no_gradient_at_all_leaves_nothing_that_is_no_number() -> None:
    matrices = LowRank([nn.Parameter(torch.zeros(16, 16))], 2, seed=0)
    for _ in range(2):
        matrices.parameters[0].grad = torch.zeros(16, 16)
        left = orthonormal(matrices.take(1.0))
        matrices.give(left, matrices.split(left))
    assert matrices.unsent_GMN.isfinite().all()


def test_shares_are_refused_as_they_would_send_all_weights() -> None:
    with pytest.raises(ValueError, match="shard sends all weights"):
        TrainConfig.model_validate(RUN | {"shard": True})
