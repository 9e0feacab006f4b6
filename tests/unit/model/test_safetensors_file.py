"""Safetensors files are read lazily, and only if every name is there once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mulm.errors import CorruptError
from mulm.model.safetensors_file import TensorFiles
from mulm.model.weights import tensors_to_bytes


def test_a_name_in_two_files_is_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    paths[0].write_bytes(tensors_to_bytes({"a": torch.zeros(2), "b": torch.zeros(2)}))
    paths[1].write_bytes(tensors_to_bytes({"c": torch.ones(2)}))
    with TensorFiles(paths) as files:
        assert sorted(files.specs) == ["a", "b", "c"]
        assert files.read("c").tolist() == [1, 1]
    paths[1].write_bytes(tensors_to_bytes({"a": torch.ones(2)}))
    with pytest.raises(CorruptError, match=r"2\.safetensors holds 'a'"):
        TensorFiles(paths)
