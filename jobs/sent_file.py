"""A file of this machine as a form holds it: its name there, and as many bytes as were announced.

Used by `jobs.remote` and `jobs.remote_files`. Invariant: whatever others do to a file while it is
sent, a request has the length that its head says, or is broken off with words.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

from mulm.errors import ConflictError

_NOT_IN_A_FORM = re.compile(r'["\x00-\x1f]')


class SentFile:
    """A file that is open for reading, of the size that it has now."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._size_bytes = os.fstat(file.fileno()).st_size

    def tell(self) -> int:
        """See `io.IOBase.tell`."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `io.IOBase.seek`; the end is where it was."""
        return self._file.seek(self._size_bytes if whence == os.SEEK_END else offset)

    def read(self, n_bytes: int) -> bytes:
        """See `io.RawIOBase.read`. Raises ConflictError where bytes are missing."""
        due_bytes = min(n_bytes, self._size_bytes - self._file.tell())
        chunk = self._file.read(due_bytes)
        if len(chunk) < due_bytes:
            raise changed(self._path)
        return chunk


def sent_name(path: Path) -> str:
    """What a server comes to know of a file's name: what a form cannot hold stands as `%22`."""
    name = path.name.encode("utf-8", "replace").decode()
    return _NOT_IN_A_FORM.sub(lambda found: f"%{ord(found.group()):02X}", name)


def changed(path: Path) -> ConflictError:
    """What is wrong with a file that is not the one of a moment before."""
    return ConflictError(
        f"{path} was changed while it was sent", hint="send it again when nothing writes to it"
    )
