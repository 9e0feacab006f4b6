"""A stored model comes back as it was."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mulm.errors import CorruptError
from mulm.manifest import Manifest
from mulm.model.quantize import Bits
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.model.stored import load_model, store_model
from mulm.store import Store
from mulm.testing import TINY, tiny_model

FEW_MB = TINY.model_copy(
    update={"vocab_size": 4096, "d_model": 256, "d_ff": 768, "d_head": 32, "n_layers": 3}
)
BITS_PER_WEIGHT = {"int8": 8.0, "int4": 4.25}


def stored_quantized(store: Store, bits: Bits) -> tuple[QuantizedMicroLM, Manifest]:
    quantization = Quantization(linear=bits, embedding=bits)
    model = QuantizedMicroLM.of(tiny_model(config=FEW_MB), quantization)
    return model, store_model(store, model, b"{}", "f" * 24, config={}, parents={})


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory, torch's and Python's, that was taken at once."""
    tracemalloc.start()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = work()
    _, python_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept is not None
    assert seen.profiler is not None
    events = seen.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return python_bytes + max(accumulate(n for _, n in changes))


def test_a_stored_model_comes_back(tmp_path: Path) -> None:
    store, model = Store(tmp_path), tiny_model()
    first = store_model(store, model, b"{}", "f" * 24, config={"name": "t"}, parents={})
    again = store_model(store, model, b"{}", "f" * 24, config={"name": "t"}, parents={})
    assert first.id == again.id
    assert json.loads(store.read(first.blob("config.json"))) == TINY.to_stored()
    read = load_model(store, first)
    ids_BT = torch.arange(20)[None]
    assert torch.equal(read(ids_BT), model(ids_BT))
    assert load_model(store, first, dtype=torch.bfloat16).embedding.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_quantized_model_comes_back_small_and_without_a_second_copy(
    tmp_path: Path, bits: Bits
) -> None:
    store = Store(tmp_path)
    model, manifest = stored_quantized(store, bits)
    entry = manifest.blob("model.safetensors")
    weights = {name: t for name, t in tiny_model(config=FEW_MB).named_parameters() if t.ndim == 2}
    n_weights, n_rows = (sum(f(t) for t in weights.values()) for f in (torch.numel, len))
    n_gains = FEW_MB.n_parameters - n_weights
    theory = n_weights * BITS_PER_WEIGHT[bits] / 8 + 4 * n_rows + 4 * n_gains
    assert entry.size_bytes < 1.05 * theory
    assert peak_bytes(lambda: load_model(store, manifest)) < 1.3 * entry.size_bytes
    read = load_model(store, manifest)
    assert isinstance(read, QuantizedMicroLM)
    assert read.quantization == model.quantization
    ids_BT = torch.arange(20)[None]
    assert torch.equal(read.logits(read(ids_BT)), model.logits(model(ids_BT)))
    assert load_model(store, manifest, dtype=torch.bfloat16)(ids_BT).dtype == torch.bfloat16


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_damaged_quantized_model_is_refused(tmp_path: Path, bits: Bits) -> None:
    store = Store(tmp_path)
    _, manifest = stored_quantized(store, bits)
    path = store.path(manifest.blob("model.safetensors"))
    path.chmod(0o644)
    content = path.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    for damaged in (content[:-100], bytes(changed), content + b"0"):
        path.write_bytes(damaged)
        with pytest.raises(CorruptError):
            load_model(store, manifest)
    path.write_bytes(content)
    load_model(store, manifest)


def test_a_quantization_that_does_not_fit_the_weights_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    model, _ = stored_quantized(store, "int8")
    model.quantization = Quantization(linear="int4", embedding="int8")
    other = store_model(store, model, b"{}", "f" * 24, config={}, parents={})
    with pytest.raises(CorruptError, match="do not fit"):
        load_model(store, other)
