"""LoRA adapters in one batch: each sequence as by the model that its own is merged into."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mulm.errors import ConfigError
from mulm.model.adapter import MATRICES, Adapter, LowRank
from mulm.model.batch import Batch
from mulm.model.lora import adapt, adapter_of, merged
from mulm.model.microlm import MicroLM
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.native.model import NativeModel
from tests.unit.native.shapes import N_PAGES, SHAPES, expected, micro, read, tokens

PROMPTS = [tokens(n, seed=n) for n in (1, 17, 40, 2, 33)]
OWNERS = [4, -1, 4, 9, -1]


def adapted(model: MicroLM, seed: int = 0, rank: int = 5, matrices: object = None) -> MicroLM:
    """A copy with random adapters that matter, beside the same base."""
    names = matrices or [name.split(".")[1] for name in MATRICES]
    generator = torch.Generator().manual_seed(seed)
    copy = MicroLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy = adapt(copy, rank=rank, scale=2.0, matrices=names, generator=generator)
    for name, parameter in copy.named_parameters():
        if "lora" in name:
            parameter.data.normal_(0, 0.3 * parameter.shape[1] ** -0.5, generator=generator)
    return copy.eval().requires_grad_(False)


def together(model: NativeModel, owners: list[int] | None, chunks: int = 1) -> list[torch.Tensor]:
    """The hidden states of all prompts, read at once in some number of pieces."""
    cache, found = model.make_cache(N_PAGES), [[] for _ in PROMPTS]
    for piece in range(chunks):
        parts, at = [], 0
        for ids in PROMPTS:
            begin, end = (len(ids) * n // chunks for n in (piece, piece + 1))
            parts.append((ids[begin:end], begin, list(range(at, at + 3))))
            at += 3
        present = [n for n, part in enumerate(parts) if part[0]]
        batch = Batch.of(*(parts[n] for n in present), wants_all=True)
        if owners:
            numbers = torch.tensor([owners[n] for n in present], dtype=torch.int32)
            batch = replace(batch, adapters_S=numbers)
        hidden = model.extend(batch, cache).split([len(parts[n][0]) for n in present])
        for n, rows in zip(present, hidden, strict=True):
            found[n].append(rows)
    return [torch.cat(rows) for rows in found]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 5, 16, 20])
def test_each_row_is_that_of_its_merged_model(kernels, shape, rank):
    base = micro(shape)
    models = {4: adapted(base, 1, rank), 9: adapted(base, 2, rank), -1: base}
    native = NativeModel(base, kernels, 2)
    for number in (4, 9):
        native.set_adapter(number, adapter_of(models[number]))
    for ids, number, found in zip(PROMPTS, OWNERS, together(native, OWNERS), strict=True):
        model = models[number] if number < 0 else merged(models[number])
        torch.testing.assert_close(found, expected(model, ids), rtol=2e-4, atol=2e-4)
        if number >= 0:
            assert (found - expected(base, ids)).norm() > 0.05 * found.norm()


@pytest.mark.parametrize("matrix", ["q", "k", "v", "out", "gate", "up", "down"])
def test_each_matrix_by_itself(kernels, matrix):
    base = micro("odd")
    model = adapted(base, matrices=[matrix])
    native = NativeModel(base, kernels, 2)
    native.set_adapter(4, adapter_of(model))
    found = together(native, [4] * 5)
    for ids, rows in zip(PROMPTS, found, strict=True):
        torch.testing.assert_close(rows, expected(merged(model), ids), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8", "int4"])
def test_bits_do_not_depend_on_neighbours_pieces_or_threads(kernels, form):
    base = micro()
    adapters = [adapter_of(adapted(base, seed)) for seed in (1, 2)]
    model = base
    if form.startswith("int"):
        model = QuantizedMicroLM.of(base, Quantization(linear=form, embedding=form))
    elif form == "bf16":
        model = micro(dtype=torch.bfloat16)
    native, threads = NativeModel(model, kernels, 2), NativeModel(model, kernels, 3)
    without = [read(native, ids) for ids in PROMPTS]
    for number, adapter in zip((4, 9), adapters, strict=True):
        native.set_adapter(number, adapter)
        threads.set_adapter(number, adapter)
    mixed = together(native, OWNERS)
    for n, owner in enumerate(OWNERS):
        alone = together(native, [owner] * len(OWNERS))
        assert torch.equal(mixed[n], alone[n])
        assert torch.equal(mixed[n], without[n]) == (owner < 0)
    for others in (together(native, OWNERS, chunks=3), together(threads, OWNERS)):
        assert all(map(torch.equal, mixed, others))


@pytest.mark.parametrize("bits", ["bf16", "int8"])
def test_other_formats_come_near(kernels, bits):
    """No further from the exact result than twice what the base's format costs without adapters."""
    base = micro()
    exact = adapted(base, 1)
    model = micro(dtype=torch.bfloat16)
    if bits == "int8":
        model = QuantizedMicroLM.of(base, Quantization(linear="int8", embedding="int8"))
    native = NativeModel(model, kernels, 2)
    plain = together(native, None)
    native.set_adapter(4, adapter_of(exact))
    found = together(native, [4] * 5)
    for n, ids in enumerate(PROMPTS):
        error = (found[n] - expected(merged(exact), ids)).norm()
        assert error < 2 * (plain[n] - expected(base, ids)).norm()


def test_setting_again_and_removing(kernels):
    base = micro()
    native = NativeModel(base, kernels, 2)
    first, second = (adapter_of(adapted(base, seed)) for seed in (1, 2))
    native.set_adapter(4, first)
    before = together(native, [4] * 5)
    native.set_adapter(4, second)
    assert not torch.equal(together(native, [4] * 5)[1], before[1])
    native.set_adapter(4, first)
    assert all(map(torch.equal, together(native, [4] * 5), before))
    native.remove_adapter(4)
    with pytest.raises(IndexError, match="adapter"):
        together(native, [4] * 5)


@pytest.mark.parametrize("number", [0, -2, 2**31 - 1])
def test_a_number_that_nobody_has_is_refused(kernels, number):
    native = NativeModel(micro(), kernels, 1)
    with pytest.raises(IndexError, match="adapter"):
        together(native, [number] * 5)


def test_an_adapter_of_another_shape_is_refused(kernels):
    native = NativeModel(micro(), kernels, 1)
    wrong = [
        adapter_of(adapted(micro("odd"))),
        Adapter({(2, "attention.q"): LowRank(torch.zeros(1, 64), torch.zeros(64, 1))}),
        Adapter({(0, "attention.x"): LowRank(torch.zeros(1, 64), torch.zeros(64, 1))}),
        Adapter({(0, "attention.q"): LowRank(torch.zeros(2, 64), torch.zeros(64, 1))}),
    ]
    for adapter in wrong:
        with pytest.raises(ConfigError, match="does not have"):
            native.set_adapter(0, adapter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_plain_path_computes_the_same(kernels, dtype):
    base = micro(dtype=dtype)
    native, adapters = NativeModel(base, kernels, 2), (4, 9)
    for number in adapters:
        adapter = adapter_of(adapted(micro(), number))
        native.set_adapter(number, adapter)
        base.set_adapter(number, adapter)
    tolerance = 2e-4 if dtype is torch.float32 else 0.2
    for ours, plain in zip(together(native, OWNERS), together(base, OWNERS), strict=True):
        torch.testing.assert_close(ours, plain.float(), rtol=tolerance, atol=tolerance)
