"""The plan says what a model weighs, to the byte."""

from __future__ import annotations

import pytest

from mulm.model.batch import PAGE_TOKENS
from mulm.model.plan import sizes
from mulm.model.presets import PRESETS, preset
from mulm.model.quantize import Bits
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.model.weights import tensors_to_bytes
from mulm.testing import TINY, tiny_model


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_bytes_are_those_of_a_real_model(tie_embeddings: bool) -> None:
    shape = TINY.model_copy(update={"tie_embeddings": tie_embeddings})
    found, model = sizes(shape), tiny_model(config=shape)
    tensors = list(model.parameters())
    assert found.n_parameters == sum(t.numel() for t in tensors)
    assert found.bytes_by_format["fp32"] == sum(t.nbytes for t in tensors)
    n_bytes = len(tensors_to_bytes(model.bfloat16().state_dict()))
    assert 0 < n_bytes - found.bytes_by_format["bf16"] < 4096  # the header
    rows = sum(t.shape[0] for t in tensors if t.ndim == 2)
    weights = sum(t.numel() for t in tensors if t.ndim == 2)
    gains = found.n_parameters - weights
    assert found.bytes_by_format["int8"] == weights + 4 * rows + 4 * gains
    assert found.bytes_by_format["gguf F16"] == 2 * weights + 4 * gains


@pytest.mark.parametrize("bits", ["int8", "int4"])
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_quantised_bytes_are_those_of_a_real_model(bits: Bits, tie_embeddings: bool) -> None:
    uneven = {"d_model": 40, "d_ff": 72, "tie_embeddings": tie_embeddings}
    shape = TINY.model_copy(update=uneven)
    quantization = Quantization(linear=bits, embedding=bits)
    model = QuantizedMicroLM.of(tiny_model(config=shape), quantization)
    content = tensors_to_bytes(model.state_dict())
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    assert sizes(shape).bytes_by_format[bits] == len(content) - header_bytes


def test_cache_bytes_are_those_of_a_real_cache() -> None:
    model = tiny_model(config=TINY)
    n_bytes = model.page_bytes() // 2  # fp32 there, bf16 here
    assert sizes(TINY).kv_bytes_per_token * PAGE_TOKENS == n_bytes
    cache = model.make_cache(3)
    assert cache.k_LPXKH.nbytes + cache.v_LPXKH.nbytes == 3 * model.page_bytes()


@pytest.mark.parametrize("name", PRESETS)
def test_formats_are_ordered_as_their_names_promise(name: str) -> None:
    n_bytes = sizes(preset(name, 32768)).bytes_by_format
    order = ["int4", "gguf Q4_0", "int8", "gguf Q8_0", "bf16", "gguf F16", "fp32"]
    assert sorted(order, key=n_bytes.__getitem__) == order


def test_base_is_at_most_one_gigabyte() -> None:
    assert sizes(preset("base", 32768)).bytes_by_format["bf16"] <= 1e9
    assert sizes(preset("wide", 32768)).bytes_by_format["int8"] <= 1.1e9
