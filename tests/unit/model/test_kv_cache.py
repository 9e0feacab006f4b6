"""Keys and values in bytes, in plain PyTorch: near to exact ones, in half the memory of bf16."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mulm.engine.engine import Engine
from mulm.engine.graph_tape import TapeRecorder
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.batch import PAGE_TOKENS, Batch
from mulm.model.microlm import MicroLM
from mulm.testing import tiny_model
from tests.unit.native.shapes import N_PAGES, SHAPES, expected, micro, read, tokens


def in_bytes(model: MicroLM) -> MicroLM:
    model.kv_dtype = "int8"
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_near_to_the_exact_result(shape):
    ids = tokens(150)
    found, wanted = read(in_bytes(micro(shape)), ids), expected(micro(shape), ids)
    assert 0 < (found - wanted).norm() < 0.025 * wanted.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_beside_fp32_is_nearer(shape):
    """And takes the room that it takes beside bf16."""
    ids, model = tokens(150), micro(shape)
    room = model.page_bytes()
    model.kv_dtype = "bf16"
    found, wanted = read(model, ids), expected(micro(shape), ids)
    assert 0 < (found - wanted).norm() < 0.01 * wanted.norm()
    assert model.page_bytes() == room // 2
    assert model.make_cache(7).nbytes == 7 * model.page_bytes()


def test_near_where_numbers_differ_in_size():
    model, ids = micro(), tokens(400)
    for block in model.blocks:
        block.attention.v.weight.data[::3] *= 20
        block.attention.k_norm.weight.data *= 3
    found, wanted = read(in_bytes(model), ids), expected(model, ids)
    assert (found - wanted)[-200:].norm() < 0.03 * wanted[-200:].norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunks", [[1] * 70, [5, 1, 30, 34], [69, 1]])
def test_in_chunks_gives_what_it_gives_as_a_whole(dtype, chunks):
    model, ids = in_bytes(micro(dtype=dtype)), tokens(70)
    found, whole = read(model, ids, chunks).float(), read(model, ids).float()
    # A number on the border between two codes may be rounded to either.
    assert (found - whole).norm() < (2e-3 if dtype is torch.float32 else 0.02) * whole.norm()


def test_a_batch_gives_what_each_gives_alone():
    model = in_bytes(micro("odd"))
    prompts = [tokens(n, seed=n) for n in (70, 1, 33)]
    parts = [(ids, 0, list(range(6 * n, 6 * n + 6))) for n, ids in enumerate(prompts)]
    together = model.extend(Batch.of(*parts, wants_all=True), model.make_cache(N_PAGES))
    alone = torch.cat([read(model, ids) for ids in prompts])
    assert (together - alone).norm() < 2e-3 * alone.norm()


def loud() -> MicroLM:
    """Weights scaled up, so that tokens depend on the text and not on rounding."""
    model = in_bytes(tiny_model())
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(3)
    return model


REQUESTS = [
    GenerateRequest(
        f"r{n}", tuple(range(2, 2 + n)), SamplingParams(max_tokens=12, temperature=0, logprobs=0)
    )
    for n in (5, 20, 38)
]


def test_what_was_cached_gives_the_same_answer():
    engine = Engine(loud(), n_slots=2)
    first, again = (engine.generate([REQUESTS[2]])["r38"] for _ in range(2))
    assert (first.n_cached_tokens, again.n_cached_tokens) == (0, 32)
    assert again.token_ids == first.token_ids


def test_steps_of_fixed_shape_answer_alike():
    tape = TapeRecorder()
    engine = Engine(loud(), n_slots=4, recorder=tape)
    plain, repeated = Engine(loud(), n_slots=4).generate(REQUESTS), engine.generate(REQUESTS)
    assert tape.n_repeated > 5
    for name, answer in plain.items():
        assert repeated[name].token_ids == answer.token_ids
        logprobs = [x.logprob for x in answer.logprobs]
        assert [x.logprob for x in repeated[name].logprobs] == pytest.approx(logprobs, abs=0.02)


def test_the_same_bits_in_any_batch():
    together = Engine(loud(), n_slots=3, batch_invariant=True).generate(REQUESTS)
    for one in REQUESTS:
        alone = Engine(loud(), n_slots=1, batch_invariant=True, prefill_tokens=7).generate([one])
        assert replace(together[one.request_id], n_cached_tokens=0) == alone[one.request_id]


@pytest.mark.parametrize("shape", ["plain", "odd"])
@pytest.mark.parametrize("kv_dtype", [None, "int8"])
def test_page_bytes_are_those_of_the_cache(shape, kv_dtype):
    model = micro(shape, torch.bfloat16)
    model.kv_dtype = kv_dtype
    config = model.config
    per_token = config.d_head + 4 if kv_dtype else 2 * config.d_head
    n_heads = 2 * config.n_layers * config.n_kv_heads
    assert model.page_bytes() == n_heads * PAGE_TOKENS * per_token
    assert model.make_cache(7).nbytes == 7 * model.page_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_broken_model_leaves_in_a_page_spoils_nobody(dtype):
    model = in_bytes(micro(dtype=dtype))
    model.embedding.weight.data[77] = float("nan")
    cache, clean = model.make_cache(N_PAGES), [token for token in tokens(8) if token != 77]
    before = model.extend(Batch.of((clean, 0, [3])), cache)
    assert model.extend(Batch.of(([77] * 16, 0, [3])), cache).isnan().any()
    assert torch.equal(model.extend(Batch.of((clean, 0, [3])), cache), before)
    one = model.extend(Batch.of(([clean[0]], len(clean), [3])), cache)
    assert not one.isnan().any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_computes_what_a_cpu_does():
    ids = tokens(150)
    wanted = read(in_bytes(micro()), ids)
    found = read(in_bytes(micro().cuda()), ids, [100, *[1] * 50]).cpu()
    assert (found - wanted).norm() < 5e-3 * wanted.norm()
