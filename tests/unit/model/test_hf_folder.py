"""A model leaves and comes back byte for byte; what cannot is refused, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mulm.data.tokenizer import Tokenizer
from mulm.errors import (
    ConflictError,
    CorruptError,
    DataError,
    NoSpaceError,
)
from mulm.model import hf_folder
from mulm.model.hf import tensor_names
from mulm.model.hf_folder import write_hf_folder
from mulm.model.hf_import import describe_hf_folder, open_hf_weights
from mulm.model.model_card import CARD, model_card
from mulm.model.model_files import ModelFiles, open_model_files, store_model_files
from mulm.model.safetensors_file import TensorFiles
from mulm.model.stored import load_model
from mulm.model.weights import tensors_to_bytes
from mulm.store import Store
from mulm.testing import TINY, tiny_llama3_tokenizer, tiny_stored_model

LLAMA3 = {
    "kind": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_seq_len": 32,
}  # fmt: skip
VARIANTS: list[tuple[torch.dtype, dict[str, Any]]] = [
    (torch.float32, {}),
    (torch.bfloat16, {"qk_norm": False, "tie_embeddings": False, "n_kv_heads": 1}),
    (torch.bfloat16, {"qk_norm": False, "rope_scaling": LLAMA3}),
    (torch.float16, {"rope_scaling": {"kind": "linear", "factor": 4.0}}),
    (
        torch.float16,
        {"rope_scaling": {"kind": "yarn", "factor": 4.0, "original_max_seq_len": 16}},
    ),
]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("is_llama3", [False, True], ids=["ChatML", "Llama 3"])
@pytest.mark.parametrize(("dtype", "changes"), VARIANTS)
def test_export_import_export_gives_the_same_bytes(
    store: Store, tokenizer: Tokenizer, tmp_path: Path, changes: dict[str, Any],
    dtype: torch.dtype, is_llama3: bool,
) -> None:  # fmt: skip
    tokenizer = tiny_llama3_tokenizer() if is_llama3 else tokenizer
    first = tiny_stored_model(store, tokenizer, dtype=dtype, **changes)
    with open_model_files(store, first) as files:
        card = model_card("tiny", first, files.config, {}, tokenizer.chat_format).encode()
        write_hf_folder(tmp_path / "one", files, card, max_part_bytes=40_000)
    described = describe_hf_folder(tmp_path / "one")
    assert described.licences == ("cc0-1.0",)
    assert described.template == "same"
    with open_hf_weights(tmp_path / "one", described) as files:
        second = store_model_files(store, files, config={}, card=described.card)
    assert second.blob("model.safetensors").sha256 == first.blob("model.safetensors").sha256
    with open_model_files(store, second) as files:
        write_hf_folder(
            tmp_path / "two", files, store.read(second.blob(CARD)), max_part_bytes=40_000
        )
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert "model.safetensors.index.json" in contents(tmp_path / "one")


def test_parts_hold_all_and_none_is_too_large(files: ModelFiles, tmp_path: Path) -> None:
    write_hf_folder(tmp_path / "hf", files, b"", max_part_bytes=20_000)
    parts = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert parts[-1].name == f"model-{len(parts):05d}-of-{len(parts):05d}.safetensors"
    assert max(path.stat().st_size for path in parts[1:]) < 25_000
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_bytes())
    assert set(index["weight_map"]) == set(tensor_names(TINY).values())
    assert index["metadata"]["total_size"] == 4 * TINY.n_parameters + 4 * 256 * TINY.d_model
    with TensorFiles(parts) as tensors:
        assert set(tensors.specs) == set(index["weight_map"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_converted(files: ModelFiles, tmp_path: Path, dtype: torch.dtype) -> None:
    write_hf_folder(tmp_path / "hf", files, b"", dtype=dtype)
    described = describe_hf_folder(tmp_path / "hf")
    with open_hf_weights(tmp_path / "hf", described) as read:
        for name, spec in read.tensors.specs.items():
            assert spec.dtype == dtype
            assert torch.equal(read.tensors.read(name), files.tensors.read(name).to(dtype))


# Refusals


def test_a_path_that_exists_is_kept(files: ModelFiles, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    with pytest.raises(ConflictError, match="exists already"):
        write_hf_folder(tmp_path / "hf", files, b"")
    assert list((tmp_path / "hf").iterdir()) == []


@pytest.mark.parametrize("error", [NoSpaceError("full"), KeyboardInterrupt()])
def test_nothing_half_written_is_left(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> bytes:
        raise error

    monkeypatch.setattr(hf_folder, "converted_data", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(type(error)):
        write_hf_folder(tmp_path / "deep" / "hf", files, b"")
    assert list((tmp_path / "deep").iterdir()) == []
    (tmp_path / "deep").rmdir()
    assert sorted(tmp_path.iterdir()) == before


def test_weights_beyond_fp16_are_refused(store: Store, files: ModelFiles, tmp_path: Path) -> None:
    model = load_model(store, tiny_stored_model(store, files.tokenizer))
    model.norm.weight.data.fill_(1e6)
    (tmp_path / "w").write_bytes(tensors_to_bytes(model.state_dict()))
    large = ModelFiles(files.config, files.tokenizer, TensorFiles([tmp_path / "w"]))
    with pytest.raises(DataError, match="range"):
        write_hf_folder(tmp_path / "hf", large, b"", dtype=torch.float16)
    assert not (tmp_path / "hf").exists()


def test_a_tampered_store_is_noticed_before_an_export(store: Store, tokenizer: Tokenizer) -> None:
    manifest = tiny_stored_model(store, tokenizer)
    path = store.path(manifest.blob("model.safetensors"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    with pytest.raises(CorruptError):
        open_model_files(store, manifest)
