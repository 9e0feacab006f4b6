"""Keys and values in bytes: near to exact ones, in half the memory of bf16, same bits anywhere."""

from __future__ import annotations

import pytest
import torch

from mulm.model.batch import PAGE_TOKENS, Batch
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.native.model import NativeModel
from tests.unit.native.shapes import N_PAGES, SHAPES, expected, micro, read, tokens


@pytest.mark.parametrize(("kv_dtype", "near"), [("int8", 0.025), ("bf16", 0.01)])
@pytest.mark.parametrize("shape", SHAPES)
def test_near_to_the_exact_result(kernels, shape, kv_dtype, near):
    model, ids = micro(shape), tokens(150)
    native = NativeModel(model, kernels, 2, kv_dtype=kv_dtype)
    wanted = expected(model, ids)
    assert 0 < (read(native, ids) - wanted).norm() < near * wanted.norm()
    assert native.page_bytes() < NativeModel(model, kernels, 2).page_bytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_plain_torch_keeps_the_same_bytes(kernels, shape):
    """What is left are the kernels' own roundings, of queries and shares to 16 bits."""
    model, ids = micro(shape), tokens(150)
    found = read(NativeModel(model, kernels, 2, kv_dtype="int8"), ids, [100, *[1] * 50])
    model.kv_dtype = "int8"
    plain, exact = read(model, ids, [100, *[1] * 50]), expected(model, ids)
    assert (found - plain).norm() < 0.15 * (found - exact).norm()
    assert (found - plain).norm() < 2e-3 * plain.norm()


def test_near_where_a_context_is_long_and_numbers_differ_in_size(kernels):
    model, ids = micro(), tokens(1300)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.v.weight[::3] *= 20
            block.attention.k_norm.weight *= 3
    found = read(NativeModel(model, kernels, 2, kv_dtype="int8"), ids)
    wanted = expected(model, ids)
    assert (found - wanted)[-200:].norm() < 0.03 * wanted[-200:].norm()


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
def test_the_same_bits_in_chunks_in_a_batch_and_on_any_threads(kernels, form):
    model = micro("odd", torch.bfloat16 if form == "bf16" else torch.float32)
    if form == "int8":
        model = QuantizedMicroLM.of(model, Quantization(linear="int8", embedding="int8"))
    one, two = (NativeModel(model, kernels, n, kv_dtype="int8") for n in (1, 2))
    prompts = [tokens(n, seed=n) for n in (70, 1, 33)]
    alone = [read(one, ids) for ids in prompts]
    assert torch.equal(read(two, prompts[0], [5, 1, 30] + [1] * 34), alone[0])
    parts = [(ids, 0, list(range(6 * n, 6 * n + 6))) for n, ids in enumerate(prompts)]
    together = two.extend(Batch.of(*parts, wants_all=True), two.make_cache(N_PAGES))
    assert torch.equal(together, torch.cat(alone))


def test_a_long_context_in_stretches_gives_the_same_bits(kernels):
    native, ids = NativeModel(micro(), kernels, 2, kv_dtype="int8"), tokens(1201)
    assert torch.equal(read(native, ids, [1200, 1])[-1], read(native, ids)[-1])


@pytest.mark.parametrize("shape", ["plain", "odd"])
def test_page_bytes(kernels, shape):
    model = micro(shape)
    config = model.config
    n_heads = 2 * config.n_layers * config.n_kv_heads
    for kv_dtype in (None, "int8"):
        native = NativeModel(model, kernels, 1, kv_dtype=kv_dtype)
        lanes = native.library.mulm_lanes()
        width = -(-config.d_head // lanes) * lanes
        per_token = width + 4 if kv_dtype else 4 * width
        assert native.page_bytes() == n_heads * PAGE_TOKENS * per_token


def test_the_cache_of_another_type_is_refused(kernels):
    model = micro()
    cache = NativeModel(model, kernels, 1).make_cache(4)
    native = NativeModel(model, kernels, 1, kv_dtype="int8")
    with pytest.raises(AssertionError, match="another model"):
        native.extend(Batch.of((tokens(3), 0, [0])), cache)
