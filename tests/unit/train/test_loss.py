"""The chunked loss equals the plain one, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mulm.train import loss as losses
from mulm.train.loss import sum_cross_entropy


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(37, 16, generator=generator).to(dtype).requires_grad_()
    weight_VD = torch.randn(50, 16, generator=generator).to(dtype).requires_grad_()
    targets_N = torch.randint(0, 50, (37,), generator=generator)
    targets_N[[0, 20, 36]] = -100
    return hidden_ND, weight_VD, targets_N


@pytest.mark.parametrize("chunk_tokens", [1, 8, 37, 100])
def test_equals_the_reference(chunk_tokens: int) -> None:
    hidden_ND, weight_VD, targets_N = inputs()
    loss = sum_cross_entropy(hidden_ND, weight_VD, targets_N, chunk_tokens=chunk_tokens)
    (loss * 0.25).backward()
    exact_hidden, exact_weight = (
        tensor.detach().double().requires_grad_() for tensor in (hidden_ND, weight_VD)
    )
    exact = functional.cross_entropy(exact_hidden @ exact_weight.T, targets_N, reduction="sum")
    (exact * 0.25).backward()
    torch.testing.assert_close(loss.double(), exact)
    assert hidden_ND.grad is not None
    assert weight_VD.grad is not None
    torch.testing.assert_close(hidden_ND.grad.double(), exact_hidden.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight_VD.grad.double(), exact_weight.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk_tokens", [8, 100])
def test_z_loss_equals_the_reference(chunk_tokens: int) -> None:
    hidden_ND, weight_VD, targets_N = inputs()
    loss = sum_cross_entropy(
        hidden_ND, weight_VD, targets_N, chunk_tokens=chunk_tokens, z_weight=0.3
    )
    (loss * 0.25).backward()
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden_ND, weight_VD)]
    logits_NV = exact[0] @ exact[1].T
    nats = functional.cross_entropy(logits_NV, targets_N, reduction="sum")
    penalty = logits_NV.logsumexp(dim=1)[targets_N != -100].square().sum()
    ((nats + 0.3 * penalty) * 0.25).backward()
    torch.testing.assert_close(loss.double(), nats + 0.3 * penalty, rtol=1e-6, atol=1e-6)
    for ours, reference in zip((hidden_ND, weight_VD), exact, strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=1e-5, atol=1e-5)


def test_a_frozen_weight_gets_no_gradient() -> None:
    hidden_ND, weight_VD, targets_N = inputs()
    sum_cross_entropy(hidden_ND, weight_VD, targets_N).backward()
    frozen_hidden = hidden_ND.detach().clone().requires_grad_()
    frozen_VD = weight_VD.detach()
    sum_cross_entropy(frozen_hidden, frozen_VD, targets_N).backward()
    assert frozen_VD.grad is None
    assert frozen_hidden.grad is not None
    assert hidden_ND.grad is not None
    assert torch.equal(frozen_hidden.grad, hidden_ND.grad)


def test_bf16_products_are_close() -> None:
    hidden_ND, weight_VD, targets_N = inputs()
    rough = sum_cross_entropy(hidden_ND, weight_VD, targets_N, torch.bfloat16).detach()
    exact = sum_cross_entropy(hidden_ND, weight_VD, targets_N).detach()
    assert float(rough) == pytest.approx(float(exact), rel=0.01)


def test_works_without_gradients() -> None:
    hidden_ND, weight_VD, targets_N = inputs()
    with torch.no_grad():
        loss = sum_cross_entropy(hidden_ND, weight_VD, targets_N)
    assert not loss.requires_grad
    assert torch.equal(loss, sum_cross_entropy(hidden_ND, weight_VD, targets_N).detach())


def test_what_is_only_judged_computes_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_ND, weight_VD, targets_N = inputs()
    expected = sum_cross_entropy(hidden_ND, weight_VD, targets_N).detach()

    def fail(*_: object) -> Tensor:
        raise AssertionError("nobody asked for gradients")

    monkeypatch.setattr(losses, "_to_gradients_in_place", fail)
    with torch.no_grad():
        for is_compiled in (False, True):
            loss = sum_cross_entropy(hidden_ND, weight_VD, targets_N, is_compiled=is_compiled)
            assert torch.equal(loss, expected)


def test_padding_alone_costs_nothing() -> None:
    hidden_ND, weight_VD, targets_N = inputs()
    loss = sum_cross_entropy(hidden_ND, weight_VD, torch.full_like(targets_N, -100))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert weight_VD.grad is not None
    assert not weight_VD.grad.any()
