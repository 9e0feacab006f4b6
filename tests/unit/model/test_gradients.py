"""Gradients written by hand are those of the plain expression; so are recomputed blocks'."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mulm.model.attention import RowAttention
from mulm.model.compute import Compute
from mulm.model.gradients import gated_silu, rms_norm
from mulm.testing import tiny_model
from mulm.train.distill_loss import sum_distillation
from mulm.train.loss import sum_cross_entropy

IDS = torch.zeros(6, dtype=torch.int64)


def out_and_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    out = function(*inputs)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weight).sum(), inputs)]


def tensor(*shape: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype: torch.dtype) -> None:
    x, gain = tensor(3, 5, 16, dtype=dtype), tensor(16, dtype=torch.float32)
    ours = out_and_gradients(lambda x, g: rms_norm(x, g, 1e-6), x, gain)
    theirs = out_and_gradients(
        lambda x, g: functional.rms_norm(x, g.shape, g, 1e-6), x.float(), gain
    )
    check(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_silu(dtype: torch.dtype) -> None:
    gate, up = tensor(4, 8, dtype=dtype), tensor(1, 4, 8, dtype=dtype)[0]
    ours = out_and_gradients(gated_silu, gate, up)
    theirs = out_and_gradients(lambda g, u: functional.silu(g) * u, gate.float(), up.float())
    check(ours, theirs, dtype)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: rms_norm(x, torch.ones(8, requires_grad=True), 1e-6),
        lambda x: gated_silu(x, x),
        lambda x: RowAttention("plain")(0, x, x, x),
        lambda x: sum_distillation(x.view(-1, 8), x[0, 0], x.view(-1, 8), x[0, 0], IDS),
        lambda x: sum_cross_entropy(x.view(-1, 8), x[0, 0], IDS),
    ],
    ids=["rms_norm", "gated_silu", "attention", "distillation", "cross_entropy"],
)
def test_differentiating_twice_is_an_error(function: Callable[[Tensor], Tensor]) -> None:
    x = tensor(1, 3, 2, 8, dtype=torch.float32)
    (gradient,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def check(ours: list[Tensor], theirs: list[Tensor], dtype: torch.dtype) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for a, b in zip(ours, theirs, strict=True):
        assert (a.float() - b.float()).norm() <= tolerance * b.float().norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointed_blocks_give_the_same_gradients_bit_for_bit(dtype: torch.dtype) -> None:
    ids_BT = torch.arange(40).view(2, 20)
    found = []
    for is_checkpointed in (False, True):
        model = tiny_model().requires_grad_(True)
        model(ids_BT, Compute(dtype, is_checkpointed=is_checkpointed)).square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        assert gradient is not None
        assert torch.equal(gradient, found[1][name]), name
