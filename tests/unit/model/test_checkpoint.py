"""Checkpoints are whole or absent, and damage is always noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mulm.errors import ConfigError, CorruptError
from mulm.model import checkpoint
from mulm.model.checkpoint import (
    checkpoints,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.ones(3, dtype=torch.bfloat16),
    "n": torch.tensor([7], dtype=torch.int64),
    "none": torch.zeros(0),
}


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


def test_every_flipped_bit_of_a_manifest_is_noticed_or_says_the_same(tmp_path: Path) -> None:
    """It has no checksum of its own: what it says is compared with the files and the folder."""
    path = save_checkpoint(tmp_path, 8, TENSORS, {"loss": 1.25})
    whole, manifest = load_checkpoint(path), path / "manifest.json"
    content = manifest.read_bytes()
    for place in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            manifest.write_bytes(damaged)
            try:
                read = load_checkpoint(path)
            except (CorruptError, ConfigError):
                continue
            assert (read.step, read.state) == (whole.step, whole.state), damaged


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


def test_another_format_is_refused(tmp_path: Path) -> None:
    manifest = save_checkpoint(tmp_path, 4, TENSORS, {}) / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"schema_version":1', '"schema_version":2'))
    assert manifest.read_text() != text
    with pytest.raises(ConfigError, match="has format 2, this code reads 1"):
        newest_checkpoint(tmp_path)


def test_one_that_is_removed_while_it_is_read_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the island that leads, beside one that begins."""
    save_checkpoint(tmp_path, 1, {"w": torch.ones(2)}, {})
    load = checkpoint.load_checkpoint

    def removed_meanwhile(path: Path) -> checkpoint.Checkpoint:
        if path.name == "step-00000001":
            save_checkpoint(tmp_path, 2, {"w": torch.zeros(2)}, {})
            prune_checkpoints(tmp_path, 1)
        return load(path)

    monkeypatch.setattr(checkpoint, "load_checkpoint", removed_meanwhile)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.step == 2
