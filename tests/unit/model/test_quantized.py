"""A quantised µLM takes the place of a `MicroLM`."""

from __future__ import annotations

import warnings

import pytest
import torch

from mulm.engine.engine import Engine
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model import quantized
from mulm.model.microlm import MicroLM
from mulm.model.quantize import Bits, Int8Matrix
from mulm.model.quantized import (
    Quantization,
    QuantizedLinear,
    QuantizedMatrix,
    QuantizedMicroLM,
)
from mulm.model.weights import tensors_to_bytes
from mulm.testing import TINY, tiny_model

FORMATS: tuple[Bits, ...] = ("int8", "int4")
fast = pytest.mark.skipif(
    not quantized.can_multiply(torch.device("cpu")), reason="this CPU does not multiply bytes fast"
)
TOLERANCE = {"int8": 0.04, "int4": 0.45}


def quantize(model: MicroLM, bits: Bits) -> QuantizedMicroLM:
    return QuantizedMicroLM.of(model, Quantization(linear=bits, embedding=bits))


def plain_twin(model: QuantizedMicroLM) -> MicroLM:
    """An ordinary model with the weights that the quantised one stands for."""
    twin = MicroLM(model.config)
    weights = dict(model.named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, QuantizedMatrix):
            weights[f"{name}.weight"] = module.weight
    twin.load_state_dict(weights)
    return twin.eval().requires_grad_(False)


def packed(model: MicroLM, bits: Bits) -> QuantizedMicroLM:
    small = quantize(model, bits)
    small.pack()
    return small


@pytest.mark.parametrize("bits", FORMATS)
@pytest.mark.parametrize("is_tied", [True, False])
def test_logits_are_near(bits: Bits, is_tied: bool) -> None:
    model = tiny_model(config=TINY.model_copy(update={"tie_embeddings": is_tied}))
    small, ids_BT = packed(model, bits), torch.arange(40).view(2, 20)
    with torch.inference_mode():
        wanted, got = model.logits(model(ids_BT)), small.logits(small(ids_BT))
    assert float((got - wanted).norm() / wanted.norm()) < TOLERANCE[bits]
    assert next(small.parameters()).dtype == torch.float32


@pytest.mark.parametrize("bits", FORMATS)
def test_where_bytes_do_not_multiply_fast_the_weights_are_expanded(
    bits: Bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "can_multiply", lambda _device: False)
    small, ids_BT = packed(tiny_model(), bits), torch.arange(40).view(2, 20)
    twin = plain_twin(small)
    torch.testing.assert_close(small.logits(small(ids_BT)), twin.logits(twin(ids_BT)))


@pytest.mark.parametrize("bits", FORMATS)
def test_it_generates_in_the_engine_and_batches_change_nothing(bits: Bits) -> None:
    small = packed(tiny_model(), bits)
    requests = [
        GenerateRequest(str(n), (n + 1, n + 2), SamplingParams(max_tokens=12, seed=n))
        for n in range(5)
    ]
    together = Engine(small, n_slots=5).generate(requests)
    alone = {r.request_id: Engine(small, n_slots=1).generate([r])[r.request_id] for r in requests}
    assert together == alone


def test_activations_may_be_bf16() -> None:
    model = tiny_model()
    source = quantize(model, "int8")
    small = QuantizedMicroLM(TINY, source.quantization, torch.bfloat16)
    with torch.no_grad():
        for name, tensor in small.state_dict().items():
            tensor.copy_(source.state_dict()[name])
    small.pack()
    hidden = small(torch.arange(8)[None])
    assert hidden.dtype == torch.bfloat16
    assert small.embedding.scale.dtype == torch.float32  # type: ignore[union-attr]


@fast
@pytest.mark.parametrize("bits", FORMATS)
@pytest.mark.parametrize("is_tied", [True, False])
def test_a_packed_model_keeps_no_second_form_and_is_neither_stored_nor_moved(
    bits: Bits, is_tied: bool
) -> None:
    model = tiny_model(config=TINY.model_copy(update={"tie_embeddings": is_tied}))
    small, ids_BT = packed(model, bits), torch.arange(8)[None]
    for module in small.modules():
        if isinstance(module, QuantizedLinear):
            assert {name: len(b) for name, b in module.named_buffers() if len(b)}.keys() == {
                "scale"
            }
    before = small.logits(small(ids_BT))
    small.pack()  # again is harmless
    assert torch.equal(small.logits(small(ids_BT)), before)
    for use in (small.state_dict, lambda: small.to(torch.bfloat16)):
        with pytest.raises(AssertionError, match="neither stored nor moved"):
            use()


@pytest.mark.parametrize("bits", FORMATS)
def test_a_model_that_was_used_is_stored_as_before(bits: Bits) -> None:
    small = quantize(tiny_model(), bits)
    before = tensors_to_bytes(small.state_dict())
    small.logits(small(torch.arange(8)[None]))
    assert tensors_to_bytes(small.state_dict()) == before


@fast
def test_packing_leaves_the_warning_filters_of_other_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Filters that another thread adds meanwhile are still there afterwards."""
    small, make = quantize(tiny_model(), "int8"), quantized.Int8Product

    def meanwhile(matrix: Int8Matrix) -> quantized.Int8Product:
        product = make(matrix)
        warnings.filterwarnings("ignore", "of another thread")
        return product

    monkeypatch.setattr(quantized, "Int8Product", meanwhile)
    asked = []
    monkeypatch.setattr(quantized, "can_multiply", lambda device: not asked.append(device))
    monkeypatch.setattr(warnings, "catch_warnings", None)
    small.pack()
    small.logits(small(torch.arange(8)[None]))
    assert len(asked) == 1
    assert any(f[1] is not None and f[1].match("of another thread") for f in warnings.filters)
