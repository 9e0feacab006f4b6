"""Adapters say nothing at first, learn alone, and merge into what they computed."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from mulm.model.compute import Compute
from mulm.model.lora import adapt, is_adapter, merged, without_adapters
from mulm.model.microlm import MicroLM
from mulm.testing import TINY, tiny_model
from mulm.train.optimizer_memory import n_adapter_parameters
from mulm.train.stages_config import LoraConfig, Matrix

ALL = get_args(Matrix)
IDS_BT = torch.arange(40).view(2, 20) * 7 % TINY.vocab_size


def adapted(rank: int = 4, matrices: tuple[str, ...] = ALL, *, is_random: bool = False) -> MicroLM:
    generator = torch.Generator().manual_seed(1)
    model = adapt(tiny_model(), rank=rank, scale=2.0, matrices=matrices, generator=generator)
    if is_random:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if is_adapter(name):
                    parameter.normal_(0.0, 0.2, generator=generator)
    return model


def logits(model: MicroLM, compute: Compute | None = None) -> Tensor:
    with torch.no_grad():
        return model.logits(model(IDS_BT, compute or Compute()))


def test_a_fresh_adapter_says_nothing() -> None:
    assert torch.equal(logits(adapted()), logits(tiny_model()))


@pytest.mark.parametrize("untied", [False, True])
def test_merged_equals_adapted(untied: bool) -> None:
    model = adapted(is_random=True)
    if untied:
        base = tiny_model(config=TINY.model_copy(update={"tie_embeddings": False}))
        model = adapt(
            base, rank=3, scale=0.5, matrices=ALL, generator=torch.Generator().manual_seed(2)
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(0.1 if is_adapter(name) else 0.0)
    plain = merged(model)
    torch.testing.assert_close(logits(plain), logits(model), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(plain), logits(tiny_model()), atol=1e-2)
    assert plain.state_dict().keys() == MicroLM(model.config).state_dict().keys()
    assert not any(is_adapter(name) for name, _ in plain.named_parameters())


def test_merging_changes_neither_base_nor_adapters() -> None:
    model = adapted(is_random=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with without_adapters(model) as base:
        assert torch.equal(logits(base), logits(tiny_model()))
    assert torch.equal(logits(model), logits(model))
    assert not torch.equal(logits(model), logits(tiny_model()))


@pytest.mark.parametrize("matrices", [ALL, ("q", "v"), ("down",)])
def test_adapters_alone_learn(matrices: tuple[Matrix, ...]) -> None:
    model = adapted(rank=3, matrices=matrices, is_random=True).train()
    model(IDS_BT, Compute(is_checkpointed=True)).square().sum().backward()
    named = dict(model.named_parameters())
    learned = {name for name, parameter in named.items() if parameter.requires_grad}
    assert learned == {name for name in named if is_adapter(name)}
    assert {name.split(".")[3] for name in learned} == set(matrices)
    assert all((named[name].grad is not None) == (name in learned) for name in named)
    n_learned = sum(named[name].numel() for name in learned)
    assert n_learned == n_adapter_parameters(TINY, LoraConfig(rank=3, matrices=matrices))


def test_gradients_are_those_of_the_sum_of_products() -> None:
    """Against the plain expression W + scale * B A."""
    model = adapted(is_random=True)
    model(IDS_BT).square().sum().backward()
    layer = model.blocks[1].mlp.up
    reference = adapted(is_random=True)
    twin = reference.blocks[1].mlp.up
    factors = [t.detach().clone().requires_grad_() for t in (twin.lora_in, twin.lora_out)]
    whole = twin.weight + twin.scale * factors[1] @ factors[0]
    twin.forward = lambda x: torch.nn.functional.linear(x, whole)
    reference(IDS_BT).square().sum().backward()
    for ours, exact in zip((layer.lora_in, layer.lora_out), factors, strict=True):
        torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-4, atol=1e-4)
