"""Requests with LoRA adapters, mixed in one batch: each is answered as if it were alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mulm.engine.engine import Engine
from mulm.engine.fake import FakeModel
from mulm.errors import ConfigError, ConflictError, UnknownNameError
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.adapter import Adapter
from mulm.model.lora import adapt, adapter_of, merged
from mulm.model.microlm import MicroLM
from mulm.testing import tiny_model

NOTHING = Adapter({})
PROMPT = tuple(range(2, 40))


def request(name: str, adapter: str | None, max_tokens: int = 8) -> GenerateRequest:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0)
    return GenerateRequest(name, PROMPT, sampling, adapter=adapter)


def fake_engine(*names: str) -> Engine:
    engine = Engine(FakeModel(), n_slots=4)
    for name in names:
        engine.set_adapter(name, NOTHING)
    return engine


def adapted(seed: int) -> MicroLM:
    generator = torch.Generator().manual_seed(seed)
    model = adapt(loud(), rank=3, scale=2, matrices=["q", "v", "down"], generator=generator)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            parameter.data.normal_(0, 0.5, generator=generator)
    return model


def loud() -> MicroLM:
    """Weights scaled up, so that the next token depends on the text and not on rounding."""
    model = tiny_model()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(3)
    return model


def test_mixed_equals_alone_and_equals_the_merged_model():
    engine = Engine(loud(), n_slots=4)
    models = {"one": adapted(1), "two": adapted(2)}
    for name, model in models.items():
        engine.set_adapter(name, adapter_of(model))
    requests = [request("a", "one"), request("b", None), request("c", "two"), request("d", "one")]
    mixed = engine.generate(requests)
    for each in requests:
        model = merged(models[each.adapter]) if each.adapter else loud()
        alone = Engine(model, n_slots=1).generate([replace(each, adapter=None)])
        assert mixed[each.request_id].token_ids == alone[each.request_id].token_ids
    assert len({mixed[name].token_ids for name in "abc"}) == 3
    engine.check_integrity()


def test_pages_are_shared_by_requests_of_the_same_adapter_only():
    engine = fake_engine("one", "two")
    assert engine.generate([request("a", "one")])["a"].n_cached_tokens == 0
    for name, adapter, n_found in (("b", "one", 32), ("c", "two", 0), ("d", None, 0)):
        assert engine.generate([request(name, adapter)])[name].n_cached_tokens == n_found


@pytest.mark.parametrize("is_removed", [True, False])
def test_another_adapter_of_the_same_name_finds_nothing_of_the_first(is_removed):
    engine = fake_engine("one")
    engine.generate([request("a", "one")])
    if is_removed:
        engine.remove_adapter("one")
    engine.set_adapter("one", NOTHING)
    assert engine.generate([request("b", "one")])["b"].n_cached_tokens == 0
    engine.check_integrity()


def test_a_stream_goes_on_when_another_adapter_is_removed():
    engine = fake_engine("one", "two")
    alone = fake_engine("one").generate([request("a", "one", 24)])["a"].token_ids
    engine.add(request("a", "one", 24))
    tokens = [token for _ in range(5) for chunk in engine.step() for token in chunk.token_ids]
    engine.remove_adapter("two")
    engine.set_adapter("three", NOTHING)
    while engine.n_unfinished:
        tokens += [token for chunk in engine.step() for token in chunk.token_ids]
        engine.check_integrity()
    assert tuple(tokens) == alone


def test_an_unknown_adapter_is_refused():
    engine = fake_engine("one")
    with pytest.raises(ConfigError, match="no adapter 'two' is loaded"):
        engine.add(request("a", "two"))
    with pytest.raises(UnknownNameError, match="no adapter 'two' is loaded"):
        engine.remove_adapter("two")


@pytest.mark.parametrize("n_steps", [0, 3])
def test_one_that_is_in_use_is_neither_removed_nor_replaced(n_steps):
    engine = fake_engine("one")
    engine.add(request("a", "one"))
    for _ in range(n_steps):
        engine.step()
    with pytest.raises(ConflictError, match="'one' is in use"):
        engine.remove_adapter("one")
    with pytest.raises(ConflictError, match="'one' is in use"):
        engine.set_adapter("one", NOTHING)
    engine.cancel("a")
    engine.remove_adapter("one")
    with pytest.raises(ConfigError):
        engine.add(request("b", "one"))


def test_one_of_another_shape_is_refused_and_not_held():
    engine = Engine(loud(), n_slots=1)
    change = next(iter(adapter_of(adapted(1)).changes.values()))
    with pytest.raises(ConfigError, match="which the model does not have"):
        engine.set_adapter("one", Adapter({(99, "attention.q"): change}))
    with pytest.raises(ConfigError, match="no adapter"):
        engine.add(request("a", "one"))


def test_one_of_another_shape_takes_the_place_of_none():
    engine = Engine(loud(), n_slots=1)
    fitting = adapter_of(adapted(1))
    engine.set_adapter("one", fitting)
    before = engine.generate([request("a", "one")])["a"]
    change = next(iter(fitting.changes.values()))
    with pytest.raises(ConfigError):
        engine.set_adapter("one", Adapter({(99, "attention.q"): change}))
    again = engine.generate([request("b", "one")])["b"]
    assert (again.token_ids, again.n_cached_tokens) == (before.token_ids, 32)


def test_other_weights_keep_the_adapters():
    engine = Engine(tiny_model(), n_slots=2)
    engine.set_adapter("one", adapter_of(adapted(1)))
    engine.swap(loud())
    found = engine.generate([request("a", "one")])["a"].token_ids
    alone = Engine(merged(adapted(1)), n_slots=1).generate([request("a", None)])["a"].token_ids
    assert found == alone
