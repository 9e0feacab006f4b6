"""Our bytes are safetensors, and weights go into models of their shape only."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from mulm.errors import CorruptError
from mulm.model.microlm import MicroLM
from mulm.model.weights import load_weights, tensors_to_bytes
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


def test_weights_of_another_shape_are_refused() -> None:
    other = MicroLM(TINY.model_copy(update={"d_ff": 32}))
    with pytest.raises(CorruptError, match="mlp"):
        load_weights(other, tiny_model().state_dict(), "mdl_x")
