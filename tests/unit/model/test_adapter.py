"""Adapters beside a running model in plain PyTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mulm.errors import ConfigError
from mulm.model.adapter import Adapter
from mulm.model.batch import Batch
from mulm.model.lora import adapt, adapter_of, merged
from mulm.model.microlm import MicroLM
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.testing import TINY, tiny_model

PROMPTS = [[3, 1, 4, 1, 5], [9], list(range(20))]


def adapted(seed: int) -> MicroLM:
    generator = torch.Generator().manual_seed(seed)
    model = adapt(tiny_model(), rank=3, scale=2, matrices=["q", "out", "up"], generator=generator)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            parameter.data.normal_(0, 0.2, generator=generator)
    return model


def hidden(model: MicroLM, *numbers: int) -> list[torch.Tensor]:
    parts = [(ids, 0, [2 * n, 2 * n + 1]) for n, ids in enumerate(PROMPTS)]
    batch = Batch.of(*parts, wants_all=True)
    if numbers:
        batch = replace(batch, adapters_S=torch.tensor(numbers, dtype=torch.int32))
    rows = model.extend(batch, model.make_cache(6))
    return list(rows.split([len(ids) for ids in PROMPTS]))


def test_each_sequence_has_its_own() -> None:
    model, others = tiny_model(), [adapted(1), adapted(2)]
    for number, other in enumerate(others):
        model.set_adapter(number, adapter_of(other))
    mixed = hidden(model, 1, -1, 0)
    for found, wanted in zip(
        mixed,
        (hidden(merged(others[1]))[0], hidden(model)[1], hidden(merged(others[0]))[2]),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mixed[0], hidden(model)[0], atol=1e-2)


def test_a_sequence_without_one_has_the_same_bits_as_before() -> None:
    model, before = tiny_model(), hidden(tiny_model())
    model.set_adapter(0, adapter_of(adapted(1)))
    assert torch.equal(hidden(model, 0, -1, 0)[1], before[1])
    assert all(map(torch.equal, hidden(model), before))


def test_a_removed_one_is_gone() -> None:
    model = tiny_model()
    model.set_adapter(3, adapter_of(adapted(1)))
    model.remove_adapter(3)
    with pytest.raises(KeyError):
        hidden(model, 3, 3, 3)
    assert all(map(torch.equal, hidden(model), hidden(tiny_model())))


def test_beside_quantised_matrices() -> None:
    form = Quantization(linear="int8", embedding="int8")
    model = QuantizedMicroLM.of(tiny_model(), form)
    model.set_adapter(0, adapter_of(adapted(1)))
    exact = tiny_model()
    exact.set_adapter(0, adapter_of(adapted(1)))
    for found, wanted in zip(hidden(model, 0, 0, 0), hidden(exact, 0, 0, 0), strict=True):
        assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_another_shape_is_refused_and_changes_nothing() -> None:
    model = tiny_model()
    change = next(iter(adapter_of(adapted(1)).changes.values()))
    with pytest.raises(ConfigError, match="which the model does not have"):
        model.set_adapter(0, Adapter({(TINY.n_layers, "attention.q"): change}))
    with pytest.raises(KeyError):
        hidden(model, 0, 0, 0)
