"""The GGUF file format, version 3: named values and tensors in one file, written as a stream.

Called by `gguf_model`; knows nothing of models. Invariants: little-endian, tensors begin at
multiples of 32 bytes, in the order in which they were given; nothing is held but one piece.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from mulm.model.gguf_blocks import BlockType

Value = str | bool | int | float | Sequence[str] | Sequence[int]

ALIGNMENT_BYTES = 32
_MAGIC, _VERSION = b"GGUF", 3
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """A tensor to be written: its name, its shape (rows first), and its data as bytes."""

    name: str
    shape: tuple[int, ...]
    kind: BlockType
    data: Callable[[], Iterable[bytes]]
    """Called once, when its turn comes."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the data, without what fills up to the next tensor."""
        return self.kind.size_bytes(prod(self.shape))


def gguf_stream(metadata: Mapping[str, Value], tensors: Sequence[GGUFTensor]) -> Iterator[bytes]:
    """A whole file in pieces."""
    head = gguf_header(metadata, tensors)
    yield head + _filling(len(head))
    for tensor in tensors:
        written = 0
        for piece in tensor.data():
            written += len(piece)
            yield piece
        assert written == tensor.size_bytes, tensor.name
        yield _filling(written)


def gguf_header(metadata: Mapping[str, Value], tensors: Sequence[GGUFTensor]) -> bytes:
    """Everything before the first tensor's data: values, then names, shapes and places."""
    parts = [_MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _typed(value)]
    offset = 0
    for tensor in tensors:
        # Dimensions are written with the one that runs fastest first.
        dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape[::-1])
        parts += [_string(tensor.name), dimensions, struct.pack("<IQ", tensor.kind.code, offset)]
        offset += tensor.size_bytes + len(_filling(tensor.size_bytes))
    return b"".join(parts)


def _typed(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    return struct.pack("<I", _ARRAY) + _array(value)


def _array(values: Sequence[str] | Sequence[int]) -> bytes:
    numbers = [value for value in values if isinstance(value, int)]
    if numbers:
        assert len(numbers) == len(values), "an array has one type"
        return struct.pack(f"<IQ{len(values)}i", _INT32, len(values), *numbers)
    texts = [_string(value) for value in values if isinstance(value, str)]
    return struct.pack("<IQ", _STRING, len(texts)) + b"".join(texts)


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _filling(size_bytes: int) -> bytes:
    return b"\0" * (-size_bytes % ALIGNMENT_BYTES)
