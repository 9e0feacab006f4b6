"""An incoming file: bytes whose name, their SHA-256, is known when the last has come.

Used by `mulm.blobs` for streams. Invariant: what is not kept is gone, whatever happened to it; a
process that is killed leaves a file that `mulm gc` knows as left over.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from mulm.atomic import make_folder, naming_full_disk, open_new, sync_folder


class IncomingFile:
    """A file that grows; either `move_to` or `discard` ends it, and whoever makes it calls one.

    Args:
        folder: Where it lies until it has a name; made where it is not there.

    Raises:
        NoSpaceError, ConfigError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._path = folder / secrets.token_hex(8)
        self._digest = hashlib.sha256()
        self._file = open_new(self._path, mode=0o444)
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._digest.hexdigest()

    def write(self, content: bytes | bytearray | memoryview) -> None:
        """Append. Raises NoSpaceError."""
        with naming_full_disk(self._path.parent):
            self._file.write(content)
        self._digest.update(content)
        self.size_bytes += len(content)

    def move_to(self, path: Path) -> None:
        """Give it its name, durably. Raises NoSpaceError."""
        with naming_full_disk(self._path.parent):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        make_folder(path.parent)
        self._path.replace(path)
        sync_folder(path.parent)

    def discard(self) -> None:
        """Leave nothing of it; harmless after `move_to`."""
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # its last bytes may not fit on a full disk
            self._file.close()
