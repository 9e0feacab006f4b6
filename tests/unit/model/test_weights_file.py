"""A safetensors file goes straight into tensors of its names and shapes, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mulm.errors import CorruptError
from mulm.model.weights import tensors_to_bytes
from mulm.model.weights_file import load_file, read_header

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.full((3,), 1.5, dtype=torch.bfloat16),
    "c": torch.tensor([[-7], [8]], dtype=torch.int8),
    "d": torch.tensor([250], dtype=torch.uint8),
    "e": torch.zeros(0),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "t.safetensors"
    path.write_bytes(tensors_to_bytes(TENSORS))
    return path


def test_tensors_come_back_in_place_and_in_the_type_of_their_targets(path: Path) -> None:
    targets = {name: torch.empty_like(tensor) for name, tensor in TENSORS.items()}
    targets["a"] = torch.empty(3, 2, dtype=torch.bfloat16).T
    where = {name: tensor.data_ptr() for name, tensor in targets.items()}
    load_file(path, targets, "x")
    for name, tensor in targets.items():
        assert torch.equal(tensor, TENSORS[name].to(tensor.dtype))
        assert tensor.data_ptr() == where[name]


def test_nothing_is_copied_where_names_or_shapes_differ(path: Path) -> None:
    for change in ({"a": torch.zeros(3, 2)}, {"z": torch.zeros(1)}):
        targets = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()} | change
        with pytest.raises(CorruptError, match="do not fit"):
            load_file(path, targets, "x")
        assert not targets["b"].any()


def header(values: object) -> bytes:
    text = json.dumps(values).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 20,
        header([1]),
        header({"a": {"dtype": "F99", "shape": [], "data_offsets": [0, 4]}}) + b"0000",
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}) + b"0000",
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}) + b"0000",
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"000",
        header({"a": {"dtype": "F32", "shape": [1]}}) + b"0000",
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    with pytest.raises(CorruptError):
        read_header(path)
