from __future__ import annotations

from itertools import product

import pytest
import torch

from mulm.model.batch import PAGE_TOKENS, Batch
from mulm.model.quantized import Quantization, QuantizedMatrix, QuantizedMicroLM
from mulm.native.model import NativeModel
from tests.unit.native.shapes import N_PAGES, SHAPES, expected, micro, read, tokens


@pytest.mark.parametrize("shape", SHAPES)
def test_computes_what_the_model_does(kernels, shape):
    model, ids = micro(shape), tokens(150)
    native = NativeModel(model, kernels, 2)
    hidden, wanted = read(native, ids), expected(model, ids)
    torch.testing.assert_close(hidden, wanted, rtol=1e-4, atol=1e-4)
    logits = native.logits(hidden[-3:])
    torch.testing.assert_close(logits, model.logits(wanted[-3:]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_is_as_near_to_fp32_as_the_models_own(kernels, shape):
    exact, ids = micro(shape), tokens(150)
    rounded = micro(shape, torch.bfloat16)
    wanted = expected(exact, ids)
    ours = (read(NativeModel(rounded, kernels, 2), ids) - wanted).norm()
    theirs = (expected(rounded, ids) - wanted).norm()
    assert ours < 1.2 * theirs


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_quantised_weights(kernels, bits):
    model = micro()
    quantized = QuantizedMicroLM.of(model, Quantization(linear=bits, embedding="int8"))
    ids = tokens(80)
    found, wanted = read(NativeModel(quantized, kernels, 2), ids), expected(quantized, ids)
    assert (found - wanted).norm() < 0.05 * wanted.norm()


def in_int8(quantized: QuantizedMicroLM) -> QuantizedMicroLM:
    """The same numbers with a byte a weight."""
    expanded = QuantizedMicroLM(quantized.config, Quantization(linear="int8", embedding="int8"))
    weights = quantized.state_dict()
    for name, module in quantized.named_modules():
        if isinstance(module, QuantizedMatrix):
            weights.pop(f"{name}.multipliers", None)
            weights[f"{name}.codes"], weights[f"{name}.scale"] = module.int8_form()
    expanded.load_state_dict(weights)
    return expanded


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("embedding", ["int8", "int4"])
def test_four_bits_give_the_same_bits_as_the_same_numbers_in_eight(kernels, shape, embedding):
    four = QuantizedMicroLM.of(micro(shape), Quantization(linear="int4", embedding=embedding))
    ids = tokens(50)
    found, wanted = (NativeModel(m, kernels, 2) for m in (four, in_int8(four)))
    hidden = read(found, ids, [31, 1, 18])
    assert torch.equal(hidden, read(wanted, ids))
    assert torch.equal(found.logits(hidden), wanted.logits(hidden))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunks", [[1] * 70, [5, 1, 30, 34], [69, 1]])
def test_in_chunks_gives_the_same_bits_as_whole(kernels, dtype, chunks):
    native, ids = NativeModel(micro(dtype=dtype), kernels, 2), tokens(70)
    assert torch.equal(read(native, ids, chunks), read(native, ids))


def test_a_long_context_in_stretches_gives_the_same_bits(kernels):
    native, ids = NativeModel(micro(dtype=torch.bfloat16), kernels, 2), tokens(1201)
    assert torch.equal(read(native, ids, [1200, 1])[-1], read(native, ids)[-1])


def test_a_batch_gives_the_same_bits_as_each_alone(kernels):
    native = NativeModel(micro(dtype=torch.bfloat16), kernels, 2)
    prompts = [tokens(n, seed=n) for n in (1, 17, 64, 40, 2, 9, 33)]
    alone = [read(native, ids) for ids in prompts]
    at = 0
    parts = []
    for ids in prompts:
        n = -(-len(ids) // PAGE_TOKENS)
        parts.append((ids, 0, list(range(at, at + n))))
        at += n
    together = native.extend(Batch.of(*parts, wants_all=True), native.make_cache(N_PAGES))
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(native.logits(together), torch.cat([native.logits(h) for h in alone]))


def test_threads_change_no_bit(kernels):
    model, ids = micro(dtype=torch.bfloat16), tokens(90)
    one, three = (read(NativeModel(model, kernels, n), ids, [80] + [1] * 10) for n in (1, 3))
    assert torch.equal(one, three)


@pytest.mark.slow  # it compiles for 13 seconds
def test_the_portable_code_computes_the_same(kernels):
    flags = ("-DMULM_PORTABLE",)
    forms = [Quantization(linear=bits, embedding=bits) for bits in ("int8", "int4")]
    models = [micro("odd"), micro("odd", torch.bfloat16)]
    models += [QuantizedMicroLM.of(micro("odd"), form) for form in forms]
    for model, kv_dtype in product(models, (None, "int8")):
        ids = tokens(60)
        portable = NativeModel(model, kernels, 2, kv_dtype, flags)
        found, wanted = read(portable, ids), read(NativeModel(model, kernels, 2, kv_dtype), ids)
        assert (found - wanted).norm() < 0.01 * wanted.norm()


@pytest.mark.parametrize("kv_dtype", [None, "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_broken_model_leaves_in_a_page_spoils_nobody(kernels, dtype, kv_dtype):
    broken = micro(dtype=dtype)
    broken.embedding.weight.data[77] = float("nan")
    model = NativeModel(broken, kernels, 2, kv_dtype)
    cache, clean = model.make_cache(N_PAGES), [token for token in tokens(8) if token != 77]
    before = model.extend(Batch.of((clean, 0, [3])), cache)
    assert model.extend(Batch.of(([77] * 16, 0, [3])), cache).isnan().any()
    assert torch.equal(model.extend(Batch.of((clean, 0, [3])), cache), before)
    one = model.extend(Batch.of(([clean[0]], len(clean), [3])), cache)
    assert not one.isnan().any()
