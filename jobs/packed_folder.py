"""A folder of plain files that comes as one tar, such as `jobs.model_export` packs.

Unpacked by `jobs.remote_exchange`. Invariants: nothing that the tar says is trusted: only files
with plain names come out of it, side by side in one folder; it is read in pieces, as it comes.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from mulm.atomic import atomic_file
from mulm.errors import CorruptError

_BLOCK_BYTES = tarfile.BLOCKSIZE
_MEMBER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/([A-Za-z0-9_][A-Za-z0-9._-]*)")
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)


def unpack(chunks: Iterator[bytes], folder: Path) -> int:
    """Put the files of such a tar into a folder that is there; returns their bytes.

    All of `chunks` is read, also what stands behind the end.

    Raises:
        CorruptError: it holds something else, or has no end.
        NoSpaceError, ConfigError: the folder cannot be written.
    """
    source, seen, size_bytes = _Bytes(chunks), set[str](), 0
    while (member := _next(source)) is not None:
        name = _name_of(member)
        if name in seen:
            raise _foreign(f"{name!r} stands twice in it")
        seen.add(name)
        with atomic_file(folder / name) as file:
            for piece in source.pieces(member.size):
                file.write(piece)
        source.skip(-member.size % _BLOCK_BYTES)
        size_bytes += member.size
    for _ in chunks:  # zeros that fill the last record
        pass
    return size_bytes


def _next(source: _Bytes) -> tarfile.TarInfo | None:
    """The next head; None at the end. The heads of long names and links are no files."""
    head = b"".join(source.pieces(_BLOCK_BYTES))
    if not any(head):
        return None
    try:
        return tarfile.TarInfo.frombuf(head, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise _foreign(str(error)) from None


def _name_of(member: tarfile.TarInfo) -> str:
    found = _MEMBER.fullmatch(member.name)
    if found is None or member.type not in _FILES or member.size < 0:
        raise _foreign(f"{member.name[:80]!r} does not belong there")
    return found[1]


def _foreign(why: str) -> CorruptError:
    return CorruptError(
        f"what the server sent is no folder: {why}", hint="nothing of it is kept here"
    )


class _Bytes:
    """A stream of bytes, taken as many at a time as are needed."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, memoryview(b"")

    def pieces(self, size_bytes: int) -> Iterator[memoryview]:
        """The next bytes. Raises CorruptError where there are fewer."""
        while size_bytes:
            if not self._left:
                self._left = memoryview(next(self._chunks, b""))
                if not self._left:
                    raise _foreign("its end is missing")
            piece, self._left = self._left[:size_bytes], self._left[size_bytes:]
            size_bytes -= len(piece)
            yield piece

    def skip(self, size_bytes: int) -> None:
        """Leave out the next bytes."""
        for _ in self.pieces(size_bytes):
            pass
