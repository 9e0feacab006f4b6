"""Weights as bytes: named tensors in the safetensors format, and into a model.

Used for stored models and for training checkpoints. Invariant: reading runs no code, and names
and shapes fit the model or nothing is copied.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from safetensors.torch import load
from torch import Tensor, nn

from mulm.errors import CorruptError
from mulm.model.safetensors_file import TensorSpec, safetensors_stream


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors in the safetensors format, names sorted."""
    specs = {
        name: TensorSpec(tensors[name].dtype, tuple(tensors[name].shape))
        for name in sorted(tensors)
    }
    return b"".join(safetensors_stream(specs, lambda name: tensor_bytes(tensors[name])))


def tensor_bytes(tensor: Tensor) -> bytes:
    """The raw bytes of a tensor, little-endian, in row order."""
    flat = tensor.detach().to("cpu").contiguous()
    return ctypes.string_at(flat.data_ptr(), flat.nbytes)


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Tensors by name, from bytes that were checked before."""
    tensors: dict[str, Tensor] = load(content)
    return tensors


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Copy weights by name into a model of the same shape.

    Raises:
        CorruptError: names or shapes differ.
    """
    have = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    want = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if have != want:
        wrong = sorted(
            name for name in have.keys() | want.keys() if have.get(name) != want.get(name)
        )
        raise CorruptError(f"the weights of {what} do not fit their config: {wrong[0]!r}")
    model.load_state_dict(dict(weights))
