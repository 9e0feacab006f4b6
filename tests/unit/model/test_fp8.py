"""Products in 8 bits are near those in 16, both ways; what they cannot do is done in 16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mulm.model.compute import Compute
from mulm.model.fp8 import GRADIENT, INPUT, Fp8Linear, in_fp8, product, scaled
from mulm.model.layers import Linear
from mulm.testing import TINY, tiny_model

RANDOM = torch.Generator().manual_seed(0)


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.mark.parametrize(("a_type", "most"), [(INPUT, 0.04), (GRADIENT, 0.06)])
def test_a_product_is_near_the_exact_one(a_type: torch.dtype, most: float) -> None:
    a, b = (torch.randn(size, 64, generator=RANDOM) for size in (32, 48))
    for size in (1e-12, 1.0, 1e12):
        found = product((a * size).bfloat16(), b.bfloat16(), a_type, INPUT)
        assert found.dtype == torch.bfloat16
        assert distance(found, (a * size).bfloat16().float() @ b.bfloat16().float().T) < most


def test_nothing_overflows_and_zero_stays_zero() -> None:
    for dtype in (INPUT, GRADIENT):
        x = torch.randn(16, 16, generator=RANDOM) * 1e15
        eight, scale = scaled(x, dtype)
        assert eight.float().isfinite().all()
        assert float(eight.float().abs().max()) == torch.finfo(dtype).max
        assert distance(eight.float() * scale, x) < 0.1
        eight, scale = scaled(torch.zeros(16, 16), dtype)
        assert not eight.float().any()
        assert scale == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_not_hidden(bad: float) -> None:
    a, b = torch.ones(16, 16), torch.ones(16, 16)
    a[3, 3] = bad
    assert not product(a.bfloat16(), b.bfloat16(), INPUT, INPUT).float().isfinite().all()


def test_gradients_of_a_layer_are_near_those_in_bf16() -> None:
    plain, eight = Linear(64, 48), Linear(64, 48)
    eight.load_state_dict(plain.state_dict())
    in_fp8(eight)
    x = torch.randn(2, 16, 64, generator=RANDOM).bfloat16()
    towards = torch.randn(2, 16, 48, generator=RANDOM).bfloat16()
    found = []
    for linear in (plain, eight):
        own = x.clone().requires_grad_(True)
        linear(own).backward(towards)
        assert own.grad is not None
        assert linear.weight.grad is not None
        assert linear.weight.grad.dtype == torch.float32
        found.append((own.grad, linear.weight.grad))
    for wanted, near in zip(*found, strict=True):
        assert 0 < distance(near, wanted) < 0.08


def test_a_model_keeps_its_names_and_the_direction_of_its_gradients() -> None:
    found = []
    ids_BT = torch.randint(0, TINY.vocab_size, (2, 33), generator=RANDOM)
    for model in (tiny_model().train(), in_fp8(tiny_model().train())):
        hidden_BTD = model(ids_BT[:, :-1], Compute(torch.bfloat16))
        logits_BTV = hidden_BTD.float() @ model.output_weight_VD.T
        functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten()).backward()
        named = {n: p.grad.flatten() for n, p in model.named_parameters() if p.grad is not None}
        found.append((model.state_dict().keys(), named))
    (names, wanted), (own_names, near) = found
    assert names == own_names
    for name, gradient in wanted.items():
        assert functional.cosine_similarity(gradient, near[name], dim=0) > 0.9, name
    assert sum(isinstance(module, Fp8Linear) for module in model.modules()) == 7 * TINY.n_layers


def test_sides_that_hardware_cannot_multiply_are_multiplied_in_the_streams_type() -> None:
    linear = Linear(32, 48)
    x = torch.randn(3, 5, 32, generator=RANDOM).bfloat16()
    plain = linear(x)
    in_fp8(linear)
    assert torch.equal(linear(x), plain)
    assert linear(torch.randn(2, 8, 32).bfloat16()).shape == (2, 8, 48)


def test_a_frozen_matrix_gets_no_gradient() -> None:
    linear = Linear(32, 16)
    in_fp8(linear)
    linear.weight.requires_grad_(False)
    x = torch.randn(16, 32, generator=RANDOM).bfloat16().requires_grad_(True)
    linear(x).float().sum().backward()
    assert x.grad is not None
    assert linear.weight.grad is None
