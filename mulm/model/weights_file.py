"""Weights from a safetensors file straight into a model, one tensor at a time.

Called when a stored model is loaded. Invariants: beside the model itself there is memory for one
tensor at most; names, shapes and the file's own offsets are checked before anything is copied;
reading runs no code.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mulm.errors import CorruptError

_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a file, in bytes from its start."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size_bytes: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a safetensors file by name.

    Raises:
        CorruptError: it is not such a file, or is cut short.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= _MAX_HEADER_BYTES else b""
    try:
        entries: dict[str, dict[str, Any]] = json.loads(text)
        entries.pop("__metadata__", None)
        tensors = {name: _entry(values, 8 + length) for name, values in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CorruptError(f"{path.name!r} is not a safetensors file") from None
    ends = [tensor.start + tensor.size_bytes for tensor in tensors.values()]
    if max(ends, default=8 + length) != path.stat().st_size:
        raise CorruptError(f"{path.name!r} has not the length that its header tells")
    return tensors


def load_file(path: Path, targets: Mapping[str, Tensor], what: str) -> None:
    """Fill every target from the file, converted to the target's type and device.

    Raises:
        CorruptError: the file is damaged, or names or shapes differ; `what` is then named.
    """
    stored = read_header(path)
    have = {name: tensor.shape for name, tensor in stored.items()}
    want = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    if have != want:
        names = sorted(n for n in have.keys() | want.keys() if have.get(n) != want.get(n))
        raise CorruptError(f"the weights of {what} do not fit their config: {names[0]!r}")
    with torch.no_grad(), path.open("rb", buffering=0) as file:
        for name, tensor in stored.items():
            _fill(file, tensor, targets[name], path.name)


def _entry(values: Mapping[str, Any], data_start: int) -> StoredTensor:
    begin, end = (int(offset) for offset in values["data_offsets"])
    shape = tuple(int(size) for size in values["shape"])
    dtype = _DTYPES[values["dtype"]]
    n_values = 1
    for size in shape:
        n_values *= size
    if (
        not 0 <= begin <= end
        or min(shape, default=0) < 0
        or end - begin != n_values * dtype.itemsize
    ):
        raise ValueError("offsets do not fit the shape")
    return StoredTensor(dtype, shape, data_start + begin, end - begin)


def _fill(file: BinaryIO, tensor: StoredTensor, target: Tensor, name: str) -> None:
    """Read into the target's own memory where type and device allow it."""
    is_direct = (
        target.device.type == "cpu" and target.dtype == tensor.dtype and target.is_contiguous()
    )
    memory = target if is_direct else torch.empty(tensor.shape, dtype=tensor.dtype)
    file.seek(tensor.start)
    view = memoryview((ctypes.c_char * tensor.size_bytes).from_address(memory.data_ptr()))
    done = 0
    while done < tensor.size_bytes:
        n_read = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not n_read:
            raise CorruptError(f"{name!r} ends too early")
        done += n_read
    if not is_direct:
        target.copy_(memory)
