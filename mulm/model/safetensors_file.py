"""Safetensors files a tensor at a time: read lazily, written as a stream.

Used where a model need not fit into memory: export, import, the store. Invariants: reading runs
no code; a header that does not fit its file is an error before any tensor is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
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


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor is without its numbers."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the raw data."""
        return prod(self.shape) * self.dtype.itemsize


class TensorFiles:
    """The tensors of one or more safetensors files, under names of one's own.

    A context manager: the files stay open, mapped into memory, until it ends.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the files.

        Raises:
            CorruptError: a file is cut short or is no safetensors file, or two hold the same name.
            DataError: it has numbers of a type that we do not read.
        """
        self._stack = ExitStack()
        self._file_by_name: dict[str, Any] = {}
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
        stored = self._stored_name[name]
        tensor: Tensor = self._file_by_name[stored].get_tensor(stored)
        return tensor

    def _open(self, path: Path) -> None:
        try:
            file = self._stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise CorruptError(
                f"{path.name} is not a whole safetensors file: {error}",
                hint="fetch or export it again",
            ) from None
        for name in file.keys():  # noqa: SIM118 - no mapping
            if name in self.specs:
                raise CorruptError(
                    f"{path.name} holds {name!r}, which another file holds too",
                    hint="fetch or export it again",
                )
            part = file.get_slice(name)
            if part.get_dtype() not in _DTYPES:
                raise DataError(
                    f"{path.name} holds {name!r} as {part.get_dtype()}, which µLM does not read",
                    hint=f"what works: {', '.join(_DTYPES)}",
                )
            self._file_by_name[name] = file
            self._stored_name[name] = name
            self.specs[name] = TensorSpec(_DTYPES[part.get_dtype()], tuple(part.get_shape()))


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
