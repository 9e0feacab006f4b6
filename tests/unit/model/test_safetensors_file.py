"""Safetensors files are read lazily, and only if every name is there once."""

from __future__ import annotations

import json
import re
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


def entry(shape: object, *offsets: object) -> dict[str, object]:
    return {"dtype": "U8", "shape": shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"a": entry([2], 0, 2), "b": entry([2], 4, 6)}, "gaps or overlap"),
        ({"a": entry([4], 0, 4), "b": entry([4], 2, 6)}, "gaps or overlap"),
        ({"a": entry([2], 0, 2)}, "its header tells of"),
        ({"a": entry([8], 0, 6)}, "the place of 'a' does not fit its shape"),
        ({"a": entry([-6, -1], 0, 6)}, "the shape or place of 'a' is none"),
        ({"a": entry([True, 6], 0, 6)}, "the shape or place of 'a' is none"),
        ({"a": entry([10**4000] * 9, 0, 6)}, "'a' has more than 8 dimensions"),
    ],
)
def test_a_header_that_does_not_fit_its_file_is_refused(
    tmp_path: Path, header: dict[str, object], told: str
) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"123456")
    with pytest.raises(CorruptError, match=re.escape(told)):
        TensorFiles([path])


def test_a_header_with_a_name_twice_or_of_any_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    text = b'{"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}, "a": 1}'
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CorruptError, match="a name stands twice"):
        TensorFiles([path])
    path.write_bytes((1 << 60).to_bytes(8, "little") + text)
    with pytest.raises(CorruptError, match="its header is too long"):
        TensorFiles([path])
