"""The chunked distillation loss is the plain one, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mulm.data.loader import IGNORED_TARGET
from mulm.train.distill_loss import sum_distillation


def inputs(n: int = 23) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((n, 8), (40, 8), (n, 12), (40, 12))
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    targets_N = torch.randint(0, 40, (n,), generator=generator)
    targets_N[::5] = IGNORED_TARGET
    return (*tensors, targets_N)


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, t_hidden: torch.Tensor, t_weight: torch.Tensor,
    targets: torch.Tensor, temperature: float,
) -> torch.Tensor:  # fmt: skip
    counted = targets != IGNORED_TARGET
    student = functional.log_softmax(hidden[counted] @ weight.T / temperature, dim=1)
    teacher = functional.log_softmax(t_hidden[counted] @ t_weight.T / temperature, dim=1)
    divergence = functional.kl_div(student, teacher, reduction="sum", log_target=True)
    return divergence * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("chunk_tokens", [4, 1024])
def test_chunked_is_plain(temperature: float, chunk_tokens: int) -> None:
    hidden, weight, *rest = inputs()
    ways = []
    for compute in ("chunked", "plain"):
        x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if compute == "chunked":
            loss = sum_distillation(x, w, *rest, temperature=temperature, chunk_tokens=chunk_tokens)
        else:
            loss = plain(x, w, *rest, temperature)
        (3 * loss).backward()
        ways.append((loss.detach(), x.grad, w.grad))
    for ours, theirs in zip(*ways, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    hidden, weight, _, _, targets = inputs()
    x = hidden.clone().requires_grad_()
    loss = sum_distillation(x, weight, hidden, weight, targets)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert x.grad is not None
    assert float(x.grad.abs().max()) < 1e-5


def test_the_teacher_gets_no_gradient() -> None:
    hidden, weight, t_hidden, t_weight, targets = inputs()
    weight.requires_grad_()
    t_weight.requires_grad_()
    sum_distillation(hidden, weight, t_hidden, t_weight, targets).backward()
    assert weight.grad is not None
    assert t_weight.grad is None


def test_bf16_products_are_near() -> None:
    *tensors, targets = inputs()
    exact = sum_distillation(*tensors, targets)
    near = sum_distillation(*tensors, targets, dtype=torch.bfloat16)
    assert float(near) == pytest.approx(float(exact), rel=0.02)
