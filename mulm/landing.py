"""A landing: where files of other machines arrive piece by piece, by the SHA-256 of the whole.

Used by the head's store and the shelf of a run's checkpoints. Invariants: a piece is bounded; what
has arrived stays where the line breaks, so that the sender goes on from there; a file leaves only
when its size and its hash are right, and is thrown away where they are not.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from mulm.atomic import make_folder, naming_full_disk, sync_folder
from mulm.checksum import hash_file
from mulm.errors import ConfigError, CorruptError, NoSpaceError
from mulm.origin import CHUNK_BYTES

LIMIT_BYTES = 64 << 30
"""The largest file that is taken: no checkpoint of a model for one card comes near it."""


class Landing:
    """Unfinished files in a folder; the same hash from two senders is one file.

    Args:
        folder: Where they lie; made with the first piece.
        limit_bytes: The largest that is taken.
    """

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes

    def arrived(self, sha256: str) -> int:
        """How many bytes of a file are here."""
        path = self._path(sha256)
        return path.stat().st_size if path.exists() else 0

    def add(self, sha256: str, size_bytes: int, start: int, piece: bytes) -> int:
        """Take the bytes from `start` on; returns how many are here, which is where to go on.

        Nothing is taken where bytes before `start` are missing: someone has thrown them away.

        Raises:
            ConfigError: the file, or the piece, is larger than what is taken.
            NoSpaceError: the disk has no room for the whole.
        """
        self._require_bounds(size_bytes, start, piece)
        have = self.arrived(sha256)
        if start > have:
            return have
        path = self._path(sha256)
        if not path.exists():
            make_folder(self._folder)
            _require_room(self._folder, size_bytes)
        with naming_full_disk(self._folder), path.open("r+b" if have else "wb") as file:
            file.seek(start)
            file.write(piece)
        return max(have, start + len(piece))

    def take(self, sha256: str, size_bytes: int, target: Path, mode: int = 0o644) -> None:
        """Move a file that has arrived to its place, durably.

        Raises:
            CorruptError: it is not what its name says; it is gone, to be sent again.
        """
        path = self._path(sha256)
        if self.arrived(sha256) != size_bytes or not path.exists() or hash_file(path) != sha256:
            path.unlink(missing_ok=True)
            raise CorruptError(
                "a file from another machine does not match its checksum",
                hint="it is sent again when the run goes on; does that machine's memory work?",
                sha256=sha256,
            )
        with naming_full_disk(self._folder), path.open("r+b") as file:
            os.fsync(file.fileno())
        path.chmod(mode)
        make_folder(target.parent)
        path.replace(target)
        sync_folder(target.parent)

    def clear(self) -> None:
        """Throw away what nobody will finish."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _require_bounds(self, size_bytes: int, start: int, piece: bytes) -> None:
        if size_bytes > self._limit_bytes:
            raise ConfigError(
                f"a file of {size_bytes} bytes is larger than the {self._limit_bytes} that are"
                " taken from another machine",
                hint="share MULM_HOME between the machines, or train a smaller model",
            )
        if not (start >= 0 and len(piece) <= CHUNK_BYTES and start + len(piece) <= size_bytes):
            raise ConfigError(
                f"{len(piece)} bytes from {start} on are no piece of a file of {size_bytes}",
                hint="do all machines have the same version of µLM?",
            )

    def _path(self, sha256: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):  # it comes from another machine
            raise ConfigError(f"{sha256!r} is no SHA-256", hint="send the hash of the whole file")
        return self._folder / f"{sha256}.part"


def _require_room(folder: Path, size_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < size_bytes:
        raise NoSpaceError(
            f"{size_bytes / 1e6:.0f} MB are to come from another machine,"
            f" {free_bytes / 1e6:.0f} MB are free on the disk of {str(folder)!r}",
            hint="free some space and run the same command again; nothing was lost",
        )
