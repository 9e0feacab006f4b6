"""Chunked log-probabilities equal the plain ones, gradients included."""

from __future__ import annotations

import pytest
import torch

from mulm.data.loader import IGNORED_TARGET
from mulm.train.token_loss import token_log_probs


@pytest.mark.parametrize("chunk_tokens", [1, 8, 100])
def test_equals_the_reference(chunk_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(37, 16, generator=generator).requires_grad_()
    weight_VD = torch.randn(50, 16, generator=generator).requires_grad_()
    targets_N = torch.randint(0, 50, (37,), generator=generator)
    targets_N[[0, 20, 36]] = IGNORED_TARGET
    share_N = torch.randn(37, generator=generator)
    found_N = token_log_probs(hidden_ND, weight_VD, targets_N, chunk_tokens=chunk_tokens)
    (found_N * share_N).sum().backward()

    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden_ND, weight_VD)]
    all_NV = (exact[0] @ exact[1].T).log_softmax(dim=1)
    exact_N = all_NV.gather(1, targets_N.clamp(min=0)[:, None])[:, 0]
    exact_N = exact_N * (targets_N != IGNORED_TARGET)
    (exact_N * share_N).sum().backward()
    torch.testing.assert_close(found_N.double(), exact_N, rtol=1e-5, atol=1e-6)
    for ours, reference in zip((hidden_ND, weight_VD), exact, strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=1e-5, atol=5e-6)


def test_a_frozen_weight_gets_no_gradient() -> None:
    hidden_ND, weight_VD = torch.randn(5, 8, requires_grad=True), torch.randn(9, 8)
    token_log_probs(hidden_ND, weight_VD, torch.arange(5)).sum().backward()
    assert hidden_ND.grad is not None
    assert weight_VD.grad is None


def test_nothing_to_learn_is_zero() -> None:
    hidden_ND, weight_VD = (torch.randn(5, 8, requires_grad=True) for _ in range(2))
    found_N = token_log_probs(hidden_ND, weight_VD, torch.full((5,), IGNORED_TARGET))
    found_N.sum().backward()
    assert not found_N.detach().any()
    assert hidden_ND.grad is not None
    assert not hidden_ND.grad.any()
