"""Our bytes are safetensors, and weights go into models of their shape only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from mulm.errors import CorruptError, DataError
from mulm.model.microlm import MicroLM
from mulm.model.weights import load_file, load_weights, require_fit, tensors_to_bytes
from mulm.testing import TINY, tiny_model

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.full((3,), 1.5, dtype=torch.bfloat16),
    "c": torch.tensor([[-7], [8]], dtype=torch.int8),
    "d": torch.tensor([250], dtype=torch.uint8),
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


def test_weights_of_another_shape_are_refused() -> None:
    other = MicroLM(TINY.model_copy(update={"d_ff": 32}))
    with pytest.raises(CorruptError, match="mlp"):
        load_weights(other, tiny_model().state_dict(), "mdl_x")


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


def test_what_does_not_fit_is_said_with_both_shapes() -> None:
    with pytest.raises(CorruptError) as error:
        require_fit({"a": (2,), "b": (3,)}, {"a": (2,), "b": (4,)}, "mdl_x")
    assert "mdl_x do not fit their config: 'b' is (3,)" in error.value.message
    assert "(4,)" in error.value.hint
    with pytest.raises(CorruptError, match="'a' is missing"):
        require_fit({}, {"a": (2,)}, "mdl_x")


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
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}}) + b"00000",
        header({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}) + b"0000",
        b"\x06" + b"\0" * 7 + b'{"a":1',
        (60).to_bytes(8, "little")
        + b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":[]}'
        + b"0",
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(content)
    with pytest.raises((CorruptError, DataError)):
        load_file(path, {}, "x")
