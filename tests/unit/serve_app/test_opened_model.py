from __future__ import annotations

import pytest
import torch

from mulm.config import parse_config
from mulm.manifest import Manifest
from mulm.model.batch import PAGE_TOKENS, Batch
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.model.quantized import Quantization, QuantizedMicroLM
from mulm.model.stored import store_model
from mulm.native.build import NoKernelsError, build
from mulm.native.model import NativeModel
from mulm.store import Store
from serve_app.opened_model import open_weights
from serve_app.settings import AppArgs

SHAPE = {"vocab_size": 300, "d_model": 32, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1,
         "d_head": 16, "d_ff": 64, "max_seq_len": 64}  # fmt: skip
IDS = [3, 1, 4, 1, 5]


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def model() -> MicroLM:
    torch.manual_seed(0)
    return MicroLM(parse_config(MicroLMConfig, SHAPE)).eval()


def stored(store: Store, model: MicroLM) -> Manifest:
    return store_model(store, model, b"{}", "fingerprint", config={}, parents={})


def hidden(model) -> torch.Tensor:
    return model.extend(Batch.of((IDS, 0, [0])), model.make_cache(1)).float()


@pytest.fixture
def compiled(request):
    folder = request.config.cache.mkdir("kernels")
    try:
        build(folder)
    except NoKernelsError as error:
        pytest.skip(f"no kernels: {error.message}")
    return folder


@pytest.mark.parametrize(
    ("instructions", "dtype"), [("avx512_bf16", torch.bfloat16), ("", torch.float32)]
)
def test_plain_torch_answers_while_the_compiler_works(
    store, model, tmp_path, compiled, monkeypatch, instructions, dtype
):
    """In what the CPU multiplies, with keys and values of the size that the kernels' have."""
    monkeypatch.setattr("serve_app.opened_model.bf16_of_cpu", lambda: instructions)
    manifest = stored(store, model)
    opened, make_faster = open_weights(store, manifest, AppArgs(n_threads=1), tmp_path)
    assert isinstance(opened, MicroLM)
    assert opened.norm.weight.dtype == dtype
    torch.testing.assert_close(hidden(opened), hidden(model), rtol=0.1, atol=0.1)
    copy_kernels(build(compiled), tmp_path)
    faster = make_faster()
    assert faster.page_bytes() == opened.page_bytes()
    at_once, _ = open_weights(store, manifest, AppArgs(n_threads=1), compiled)
    assert torch.equal(hidden(faster), hidden(at_once))


def copy_kernels(library, folder):
    for part in library.parent.glob(f"{library.name}*"):
        (folder / part.name).write_bytes(part.read_bytes())


@pytest.mark.parametrize("bits", [None, "int8", "int4"])
def test_compiled_kernels_answer_at_once(store, model, compiled, bits):
    if bits:
        form = Quantization.model_validate({"linear": bits, "embedding": "int8"})
        model = QuantizedMicroLM.of(model, form)
    args = AppArgs(dtype="float32", n_threads=1)
    opened, make_faster = open_weights(store, stored(store, model), args, compiled)
    assert isinstance(opened, NativeModel)
    assert make_faster is None
    assert torch.get_num_threads() == 1
    torch.testing.assert_close(hidden(opened), hidden(model), rtol=0.02, atol=0.02)


def test_the_faster_form_computes_the_same(store, model, tmp_path, compiled):
    library = build(compiled)
    args = AppArgs(dtype="float32", n_threads=1)
    opened, make_faster = open_weights(store, stored(store, model), args, tmp_path)
    copy_kernels(library, tmp_path)
    torch.testing.assert_close(hidden(make_faster()), hidden(opened), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_keys_and_values_are_kept_as_asked_for_with_and_without_kernels(
    store, model, tmp_path, compiled, kv_dtype
):
    args, manifest = AppArgs(n_threads=1, kv_dtype=kv_dtype), stored(store, model)
    config, per_number = model.config, {"auto": 2, "int8": 1}[kv_dtype]
    n_heads = 2 * config.n_layers * config.n_kv_heads * PAGE_TOKENS
    for folder, kind in ((tmp_path, MicroLM), (compiled, NativeModel)):
        opened, _ = open_weights(store, manifest, args, folder)
        assert isinstance(opened, kind)
        n_scale = 4 if kv_dtype == "int8" else 0
        assert opened.page_bytes() == n_heads * (config.d_head * per_number + n_scale)
        torch.testing.assert_close(hidden(opened), hidden(model), rtol=0.1, atol=0.1)


def test_nobody_waits_for_kernels_that_are_damaged(store, model, tmp_path, compiled):
    library = build(compiled)
    (tmp_path / library.name).write_bytes(library.read_bytes())  # its sum was not written any more
    opened, make_faster = open_weights(store, stored(store, model), AppArgs(), tmp_path)
    assert isinstance(opened, MicroLM)
    assert make_faster is not None


def test_a_model_that_the_kernels_do_not_compute_is_plain_torch(
    store, model, compiled, monkeypatch, caplog
):
    monkeypatch.setattr("mulm.native.model.WIDEST_HEAD", 8)
    args = AppArgs(dtype="float32", n_threads=2)
    opened, make_faster = open_weights(store, stored(store, model), args, compiled)
    assert make_faster is None
    assert torch.get_num_threads() == 2
    assert torch.equal(hidden(opened), hidden(model))
    assert "d_head is 16" in caplog.text


def test_without_a_compiler_it_is_plain_torch_in_fp32(store, model, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "not-a-compiler")
    args = AppArgs(n_threads=2)
    opened, make_faster = open_weights(store, stored(store, model), args, tmp_path)
    assert make_faster is None
    assert opened.norm.weight.dtype == torch.float32
    assert torch.get_num_threads() == 2
    assert torch.equal(hidden(opened), hidden(model))
