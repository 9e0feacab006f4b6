"""Safetensors files a tensor at a time: read lazily, written as a stream.

Used where a model need not fit into memory: export, import, the store. Invariants: reading runs
no code; a header that does not fit its file is an error before any tensor is read; reading takes
the memory of one tensor, and none where it goes into its target directly.
"""

from __future__ import annotations

import ctypes
import json
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from mulm.errors import CorruptError, DataError

FORMAT_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_DTYPES = {name: dtype for dtype, name in FORMAT_DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 8
"""A header has room for millions, whose product would take for ever."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor is without its numbers."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the raw data."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file."""

    spec: TensorSpec
    start: int
    """In bytes from the start of the file."""


class TensorFiles:
    """The tensors of one or more safetensors files, under names of one's own.

    A context manager: the files stay open until it ends.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the files.

        Raises:
            CorruptError: a file is cut short or is no safetensors file, or two hold the same name.
            DataError: it has numbers of a type that we do not read.
        """
        self._stack = ExitStack()
        weakref.finalize(self, self._stack.close)
        self._place_by_name: dict[str, tuple[int, StoredTensor]] = {}
        self._stored_name: dict[str, str] = {}
        self.specs: dict[str, TensorSpec] = {}
        try:
            for path in paths:
                self._open(path)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._stack.close()

    def rename(self, new_by_old: Mapping[str, str]) -> None:
        """Keep the named tensors alone, under other names."""
        self._stored_name = {new: self._stored_name[old] for old, new in new_by_old.items()}
        self.specs = {new: self.specs[old] for old, new in new_by_old.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        spec = self.specs[name]
        tensor = torch.empty(spec.shape, dtype=spec.dtype)
        self.read_into(name, tensor)
        return tensor

    @torch.no_grad()
    def read_into(self, name: str, target: Tensor) -> None:
        """One tensor into another of its shape, converted to that one's type and device.

        Raises:
            CorruptError: the file has become shorter.
        """
        descriptor, stored = self._place_by_name[self._stored_name[name]]
        has_its_bytes = target.dtype == stored.spec.dtype and target.is_contiguous()
        if target.device.type == "cpu" and has_its_bytes:
            _read_bytes(descriptor, stored, target)
        else:
            target.copy_(self.read(name))

    def _open(self, path: Path) -> None:
        tensors = read_header(path)
        descriptor = os.open(path, os.O_RDONLY)
        self._stack.callback(os.close, descriptor)
        for name, stored in tensors.items():
            if name in self.specs:
                raise CorruptError(
                    f"{path.name} holds {name!r}, which another file holds too",
                    hint="fetch or export it again",
                )
            self._place_by_name[name] = descriptor, stored
            self._stored_name[name] = name
            self.specs[name] = stored.spec


def read_header(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a safetensors file by name.

    Raises:
        CorruptError: it is no such file, or is cut short.
        DataError: it has numbers of a type that we do not read.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _MAX_HEADER_BYTES:
                raise ValueError("its header is too long")
            entries = json.loads(file.read(length), object_pairs_hook=_without_duplicates)
        entries.pop("__metadata__", None)
        tensors = {n: _entry(path, n, values, 8 + length) for n, values in entries.items()}
        _require_full(tensors.values(), 8 + length, path.stat().st_size)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise CorruptError(
            f"{path.name} is not a whole safetensors file: {error}",
            hint="fetch or export it again",
        ) from None
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return values


def _entry(path: Path, name: str, values: Mapping[str, Any], data_start: int) -> StoredTensor:
    if values["dtype"] not in _DTYPES:
        raise DataError(
            f"{path.name} holds {name!r} as {values['dtype']}, which µLM does not read",
            hint=f"what works: {', '.join(_DTYPES)}",
        )
    begin, end = values["data_offsets"]
    if len(values["shape"]) > _MAX_DIMENSIONS:
        raise ValueError(f"{name!r} has more than {_MAX_DIMENSIONS} dimensions")
    spec = TensorSpec(_DTYPES[values["dtype"]], tuple(values["shape"]))
    if not all(type(n) is int and n >= 0 for n in (begin, end, *spec.shape)):
        raise ValueError(f"the shape or place of {name!r} is none")
    if end - begin != spec.size_bytes:
        raise ValueError(f"the place of {name!r} does not fit its shape")
    return StoredTensor(spec, data_start + begin)


def _require_full(tensors: Iterable[StoredTensor], start: int, end: int) -> None:
    """Data follow one another from `start` to `end` without a gap."""
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.spec.size_bytes)):
        if tensor.start != start:
            raise ValueError("its data have gaps or overlap")
        start += tensor.spec.size_bytes
    if start != end:
        raise ValueError(f"it has {end} bytes, its header tells of {start}")


def _read_bytes(descriptor: int, stored: StoredTensor, target: Tensor) -> None:
    size_bytes = stored.spec.size_bytes
    view = memoryview((ctypes.c_char * size_bytes).from_address(target.data_ptr()))
    done = 0
    while done < size_bytes:
        n_read = os.preadv(descriptor, [view[done:]], stored.start + done)
        if not n_read:
            raise CorruptError("a safetensors file ends too early", hint="fetch or export it again")
        done += n_read


def safetensors_header(
    specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The beginning of a file whose data follow in the order of `specs`.

    Written by hand because the library's writer needs numpy: eight bytes of header length, a
    JSON header, then the raw little-endian data.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, spec in specs.items():
        start, end = end, end + spec.size_bytes
        header[name] = {
            "dtype": FORMAT_DTYPES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def safetensors_stream(
    specs: Mapping[str, TensorSpec],
    data_of: Callable[[str], bytes],
    metadata: Mapping[str, str] | None = None,
) -> Iterator[bytes]:
    """A whole file in pieces, one tensor at a time; `data_of` gives a tensor's raw bytes."""
    yield safetensors_header(specs, metadata)
    for name, spec in specs.items():
        data = data_of(name)
        assert len(data) == spec.size_bytes
        yield data


def split_by_size(specs: Mapping[str, TensorSpec], limit_bytes: int) -> list[dict[str, TensorSpec]]:
    """Consecutive groups of at most `limit_bytes`; a larger tensor stands alone."""
    groups: list[dict[str, TensorSpec]] = []
    room = 0
    for name, spec in specs.items():
        if not groups or spec.size_bytes > room:
            groups.append({})
            room = limit_bytes
        groups[-1][name] = spec
        room -= spec.size_bytes
    return groups


def total_bytes(specs: Iterable[TensorSpec]) -> int:
    """Bytes of the raw data of some tensors."""
    return sum(spec.size_bytes for spec in specs)
