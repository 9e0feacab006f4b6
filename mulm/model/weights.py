"""Weights as bytes: named tensors in the safetensors format, and into a model.

Used for stored models and for training checkpoints. Invariant: reading runs no code, and names
and shapes fit the model or nothing is copied.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from mulm.errors import CorruptError
from mulm.model.microlm import MicroLM

_FORMAT_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
}


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors in the safetensors format, names sorted.

    Written by hand because the library's writer needs numpy: eight bytes of header length,
    a JSON header, the raw little-endian data.
    """
    flat = {name: tensors[name].detach().to("cpu").contiguous() for name in sorted(tensors)}
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name, tensor in flat.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _FORMAT_DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = [tensor_bytes(tensor) for tensor in flat.values()]
    return b"".join([len(text).to_bytes(8, "little"), text, *data])


def tensor_bytes(tensor: Tensor) -> bytes:
    """The raw bytes of a tensor, little-endian, in row order."""
    flat = tensor.detach().to("cpu").contiguous()
    return ctypes.string_at(flat.data_ptr(), flat.nbytes)


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Tensors by name, from bytes that were checked before."""
    tensors: dict[str, Tensor] = load(content)
    return tensors


def load_weights(model: MicroLM, weights: Mapping[str, Tensor], what: str) -> None:
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
