"""Bytes of a file as a stream: plain, decompressed, or out of UTF-16; and its lines, bounded.

Called by the sources that read text. Invariants: memory does not grow with a file, whatever is in
it; what goes wrong while reading is an `UnreadableError` without a path.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa

from mulm.data.sources.base import Part, RawDocument, UnreadableError
from mulm.data.sources.formats import compression_of

MAX_ROW_BYTES = 64 << 20
"""A longer line is no row of anything."""

SHOWN_BYTES = 8192
"""What a reject shows of something large."""

_BUFFER_BYTES = 1 << 20
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


@contextmanager
def naming_damage() -> Iterator[None]:
    """Raise UnreadableError in the place of what a damaged or vanished file raises."""
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, pa.ArrowException) as error:
        # Messages may hold a path, which differs between machines: the system's words do not.
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableError(why.splitlines()[0] if why else type(error).__name__) from None


@contextmanager
def open_stream(path: Path, start: int = 0) -> Iterator[IO[bytes]]:
    """The bytes of a file from `start` on, decompressed, and as UTF-8 if they were UTF-16.

    Raises:
        UnreadableError: now, or while it is read in the block.
    """
    with naming_damage(), io.BufferedReader(io.FileIO(path), _BUFFER_BYTES) as file:
        file.seek(start)
        stream: io.BufferedReader[Any] = file
        if compression := compression_of(path.name):
            stream = _buffered(pa.CompressedInputStream(pa.PythonFile(file, "r"), compression))
        if not start and stream.peek(2)[:2] in _UTF16:
            stream = _buffered(_Transcoded(stream))
        yield stream


def byte_parts(path: Path, part_bytes: int) -> list[Part]:
    """A plain file as stretches of `part_bytes`; what must be read as one stream is one part."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            is_utf16 = file.read(2) in _UTF16
    except OSError:
        return [Part()]  # reading it says what is wrong
    if compression_of(path.name) or is_utf16 or size_bytes <= part_bytes:
        return [Part()]
    starts = range(0, size_bytes, part_bytes)
    return [Part(start, min(start + part_bytes, size_bytes)) for start in starts]


def lines(path: Path, part: Part) -> Iterator[bytes | RawDocument]:
    """The lines that begin in a part, with their ends; one of over MAX_ROW_BYTES is a reject."""
    for place, line in placed_lines(path, part.start):
        if part.stop is not None and place >= part.stop:
            return
        yield line


def placed_lines(path: Path, start: int) -> Iterator[tuple[int, bytes | RawDocument]]:
    """The lines that begin at `start` or later, each with the place where it begins."""
    # A line that begins at `start` follows a line end: look one byte back for it.
    place = max(start - 1, 0)
    with open_stream(path, place) as stream:
        if start:
            place += _skip_line(stream)
        while line := stream.readline(MAX_ROW_BYTES):
            if len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
                yield place, RawDocument(shown(line), "too_long_row")
                place += _skip_line(stream)
            else:
                yield place, line
            place += len(line)


def shown(content: bytes) -> str:
    """What a reject shows of some bytes."""
    return content[:SHOWN_BYTES].decode("utf-8", "replace")


def _skip_line(stream: IO[bytes]) -> int:
    n_skipped = 0
    while piece := stream.readline(_BUFFER_BYTES):
        n_skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return n_skipped


def _buffered(reader: _Reader) -> io.BufferedReader[Any]:
    return io.BufferedReader(_Raw(reader), _BUFFER_BYTES)


class _Raw(io.RawIOBase):
    """Whatever has a `read`, for a BufferedReader."""

    def __init__(self, reader: _Reader) -> None:
        super().__init__()
        self._reader = reader

    def readable(self) -> bool:
        return True

    def readinto(self, target: bytearray | memoryview, /) -> int:  # type: ignore[override]
        content = self._reader.read(len(target))
        target[: len(content)] = content
        return len(content)


class _Transcoded:
    """UTF-16 in, UTF-8 out."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-16")()
        self._left = b""

    def read(self, size: int, /) -> bytes:
        while not self._left:
            content = self._stream.read(_BUFFER_BYTES)
            self._left = self._decoder.decode(content, final=not content).encode()
            if not content:
                break
        taken, self._left = self._left[:size], self._left[size:]
        return taken
