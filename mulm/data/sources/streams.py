"""Bytes of a file as a stream: plain, decompressed, or out of UTF-16; and its lines, bounded.

Called by the sources that read text. Invariants: memory does not grow with a file, whatever is in
it; what goes wrong while reading is an `UnreadableError` without a path; what stands before the
damage of a compressed file can be read to its last byte.
"""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from mulm.data.sources.base import Part, RawDocument, UnreadableError
from mulm.data.sources.formats import compression_of

MAX_ROW_BYTES = 64 << 20
"""A longer line is no row of anything."""

SHOWN_BYTES = 8192
"""What a reject shows of something large."""

_BUFFER_BYTES = 1 << 20
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
DAMAGE = (OSError, EOFError, UnicodeDecodeError, pa.ArrowException)
"""What reading raises inside `open_stream`, which makes an UnreadableError of it."""

Stream: TypeAlias = "io.BufferedReader[Any]"


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


@contextlib.contextmanager
def naming_damage() -> Iterator[None]:
    """Raise UnreadableError in the place of what a damaged or vanished file raises."""
    try:
        yield
    except DAMAGE as error:
        # Messages may hold a path, which differs between machines: the system's words do not.
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableError(why.splitlines()[0] if why else type(error).__name__) from None


@contextlib.contextmanager
def open_stream(path: Path, start: int = 0) -> Iterator[Stream]:
    """The bytes of a file from `start` on, decompressed, and as UTF-8 if they were UTF-16.

    Raises:
        UnreadableError: now, or while it is read in the block.
    """
    with naming_damage(), io.BufferedReader(io.FileIO(path), _BUFFER_BYTES) as file:
        file.seek(start)
        stream: Stream = file
        if compression := compression_of(path.name):
            stream = _buffered(_Decompressed(file, compression))
        if not start and stream.peek(2)[:2] in _UTF16:
            stream = _buffered(_Transcoded(stream))
        yield stream


def fill(content: bytearray, stream: Stream, size_bytes: int) -> None:
    """Append so many bytes, or all that are left; before damage is raised what stands before it."""
    while size_bytes > 0 and (piece := stream.read1(size_bytes)):
        content += piece
        size_bytes -= len(piece)


def read_before_damage(stream: Stream, size_bytes: int) -> bytes:
    """As `stream.read`, but fewer bytes before damage, which is raised by the next reading."""
    content = bytearray()
    try:
        fill(content, stream, size_bytes)
    except DAMAGE:
        if not content:
            raise
    return bytes(content)


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


def _skip_line(stream: Stream) -> int:
    n_skipped = 0
    while piece := stream.readline(_BUFFER_BYTES):
        n_skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return n_skipped


def _buffered(reader: _Reader) -> Stream:
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


class _Decompressed:
    """What a compressed file holds, up to the byte where it is damaged."""

    def __init__(self, file: Stream, compression: str) -> None:
        self._file, self._compression = file, compression
        self._stream = self._opened()
        self._done_bytes = 0
        self._damage: Exception | None = None

    def read(self, size: int) -> bytes:
        if self._damage:
            raise self._damage
        size = min(size, _BUFFER_BYTES)
        try:
            content = bytes(self._stream.read(size))
        except DAMAGE as error:
            self._damage = error
            content = self._lost(size)
            if not content:
                raise
        self._done_bytes += len(content)
        return content

    def _lost(self, size: int) -> bytes:
        """The bytes before the damage, which a reading that meets it does not give: one by one."""
        self._file.seek(0)
        stream, left = self._opened(), self._done_bytes
        content = bytearray()
        with contextlib.suppress(*DAMAGE):
            while left:
                left -= len(stream.read(min(left, _BUFFER_BYTES)))
            while len(content) < size and (byte := stream.read(1)):
                content += byte
        return bytes(content)

    def _opened(self) -> pa.CompressedInputStream:
        return pa.CompressedInputStream(pa.PythonFile(self._file, "r"), self._compression)


class _Transcoded:
    """UTF-16 in, UTF-8 out."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-16")()
        self._left = b""

    def read(self, size: int, /) -> bytes:
        while not self._left:
            content = read_before_damage(self._stream, _BUFFER_BYTES)
            self._left = self._decoder.decode(content, final=not content).encode()
            if not content:
                break
        taken, self._left = self._left[:size], self._left[size:]
        return taken
