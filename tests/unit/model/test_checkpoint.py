"""Checkpoints are whole or absent, and damage is always noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from mulm.errors import CorruptError
from mulm.model.checkpoint import (
    checkpoints,
    load_checkpoint,
    load_model,
    load_weights,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
    store_model,
    tensors_to_bytes,
)
from mulm.model.microlm import MicroLM
from mulm.store import Store
from mulm.testing import TINY, tiny_model

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.ones(3, dtype=torch.bfloat16),
    "n": torch.tensor([7], dtype=torch.int64),
    "none": torch.zeros(0),
}


def test_our_bytes_are_safetensors() -> None:
    read = load(tensors_to_bytes(TENSORS))
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(read[name], tensor)
        assert read[name].dtype == tensor.dtype
    assert load(save(TENSORS)).keys() == read.keys()


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 4, TENSORS, {"loss": 1.5})
    read = newest_checkpoint(tmp_path)
    assert read is not None
    assert (read.step, read.state) == (4, {"loss": 1.5})
    assert torch.equal(read.tensors["a"], TENSORS["a"])
    assert newest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "delete"])
def test_damage_is_noticed(tmp_path: Path, file: str, damage: str) -> None:
    save_checkpoint(tmp_path, 4, TENSORS, {"loss": 1.5})
    path = save_checkpoint(tmp_path, 8, TENSORS, {"loss": 1.25}) / file
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(CorruptError) as error:
        newest_checkpoint(tmp_path)
    assert "step-00000004 exists" in error.value.hint


def test_a_killed_writer_leaves_no_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 4, TENSORS, {})
    half = tmp_path / ".step-00000008.abcd.tmp"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000004"]
    prune_checkpoints(tmp_path, keep=1)
    assert not half.exists()


def test_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, step, TENSORS, {})
    prune_checkpoints(tmp_path, keep=2)
    assert [load_checkpoint(path).step for path in checkpoints(tmp_path)] == [2, 10]


def test_a_stored_model_comes_back(tmp_path: Path) -> None:
    store, model = Store(tmp_path), tiny_model()
    first = store_model(store, model, b"{}", "f" * 24, config={"name": "t"}, parents={})
    again = store_model(store, model, b"{}", "f" * 24, config={"name": "t"}, parents={})
    assert first.id == again.id
    assert json.loads(store.read(first.blob("config.json"))) == TINY.model_dump()
    read = load_model(store, first)
    ids_BT = torch.arange(20)[None]
    assert torch.equal(read(ids_BT), model(ids_BT))
    assert load_model(store, first, dtype=torch.bfloat16).embedding.weight.dtype == torch.bfloat16


def test_weights_of_another_shape_are_refused() -> None:
    other = MicroLM(TINY.model_copy(update={"d_ff": 32}))
    with pytest.raises(CorruptError, match="mlp"):
        load_weights(other, tiny_model().state_dict(), "mdl_x")
