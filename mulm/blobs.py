"""Blobs: immutable files in a local folder, addressed by the SHA-256 of their bytes.

`mulm.store.Store` is made of them. Invariants: a blob's name is its hash, so writing twice is
harmless and reading can be checked; nothing is ever changed in place. With an origin the folder is
a cache: what is missing or damaged here is fetched from there, and used only after it was hashed.
The time of a file says when a step last made or used it: what is in use is never old (`mulm.gc`).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mulm.atomic import make_folder, write_atomic
from mulm.checksum import hash_file, in_threads
from mulm.errors import CorruptError, NoSpaceError, NotFoundError
from mulm.incoming import IncomingFile
from mulm.manifest import BlobEntry
from mulm.origin import Origin

_log = logging.getLogger(__name__)

_HINT = (
    "run the command that made it again (`mulm data build`, `mulm train`): it mends what is damaged"
)
_ORIGIN_HINT = "the store it is fetched from is damaged: delete it there, upload the version again"
_STALE_S = 86_400.0
"""No stream goes so long without a byte: what wrote this was killed."""
TOUCH_S = 3600.0
"""A file that is used again gets a new time if its own is older: at most that late."""


class Blobs:
    """Files by their hash, under `blobs/` of a folder.

    Args:
        root: The folder.
        origin: Where what is missing here is fetched; none by default.
        clock: The time, for what is stale.
    """

    def __init__(
        self,
        root: Path,
        origin: Origin | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = root
        self._origin = origin
        self._clock = clock

    def put(
        self, name: str, content: bytes, rows: int = 0, content_sha256: str | None = None
    ) -> BlobEntry:
        """Store bytes and return the entry for a manifest.

        Known bytes are not written again, unless their stored copy is damaged. Bytes that a
        compressor made come with the hash of what they hold, which then stands in the version's id.

        Raises:
            NoSpaceError: the disk is full; nothing was stored.
        """
        digest = hashlib.sha256(content).hexdigest()
        path = self._blob_path(digest)
        if _holds(path, digest):
            self.touch(path)
        else:
            write_atomic(path, content, mode=0o444)
        return BlobEntry(
            name=name, sha256=digest, size_bytes=len(content), rows=rows,
            content_sha256=content_sha256,
        )  # fmt: skip

    def put_stream(self, name: str, chunks: Iterable[bytes]) -> BlobEntry:
        """As `put`, for what need not fit into memory.

        Raises:
            NoSpaceError: the disk is full; nothing was stored.
        """
        digest, size_bytes = self._receive(chunks)
        return BlobEntry(name=name, sha256=digest, size_bytes=size_bytes)

    def begin(self) -> IncomingFile:
        """A blob that comes piece by piece; then `keep` it, or `discard` it.

        Raises:
            NoSpaceError, ConfigError: the store cannot be written.
        """
        self._remove_stale()
        return IncomingFile(self.root / "incoming")

    def keep(self, name: str, incoming: IncomingFile) -> BlobEntry:
        """As `put`, for what has come whole.

        Raises:
            NoSpaceError: the disk is full; nothing was stored.
        """
        entry = BlobEntry(name=name, sha256=incoming.sha256, size_bytes=incoming.size_bytes)
        incoming.move_to(self._blob_path(entry.sha256))
        return entry

    def read(self, entry: BlobEntry) -> bytes:
        """The bytes of a blob, checked.

        Raises:
            NotFoundError: the blob is missing.
            CorruptError: its bytes do not match the checksum.
        """
        try:
            content = self.existing(entry).read_bytes()
            if hashlib.sha256(content).hexdigest() != entry.sha256:
                raise _corrupt(entry)
        except (NotFoundError, CorruptError) as error:
            return self._fetch(entry, error).read_bytes()
        return content

    def path(self, entry: BlobEntry) -> Path:
        """Where a blob lies, checked, for memory mapping. Never write to it.

        Raises:
            NotFoundError: the blob is missing.
            CorruptError: its bytes do not match the checksum.
        """
        try:
            path = self.existing(entry)
            if hash_file(path) != entry.sha256:
                raise _corrupt(entry)
        except (NotFoundError, CorruptError) as error:
            return self._fetch(entry, error)
        return path

    def unchecked_path(self, entry: BlobEntry) -> Path:
        """As `path`, but of what lies here only the size is checked: for a reader who checks all.

        Raises:
            NotFoundError, CorruptError: see `path`.
        """
        try:
            return self.existing(entry)
        except (NotFoundError, CorruptError) as error:
            return self._fetch(entry, error)

    def paths(self, entries: Iterable[BlobEntry]) -> list[Path]:
        """As `path` for each, on two cores."""
        return list(in_threads(self.path, entries))

    def piece(self, sha256: str, start: int, size_bytes: int) -> bytes:
        """Some bytes of a blob, for a reader who checks the whole; empty at its end.

        Raises:
            NotFoundError: there is no such blob here.
        """
        try:
            if not re.fullmatch(r"[0-9a-f]{64}", sha256):  # it may come from another machine
                raise FileNotFoundError
            with self._blob_path(sha256).open("rb") as file:
                file.seek(start)
                return file.read(size_bytes)
        except FileNotFoundError:
            raise NotFoundError(f"no file {sha256!r} in the store") from None

    def require_space(self, size_bytes: int) -> None:
        """Refuse early what would not fit.

        Raises:
            NoSpaceError: fewer than `size_bytes` are free.
        """
        make_folder(self.root)
        free_bytes = shutil.disk_usage(self.root).free
        if free_bytes < size_bytes:
            raise NoSpaceError(
                f"{size_bytes / 1e6:.0f} MB are needed in {str(self.root)!r},"
                f" {free_bytes / 1e6:.0f} MB are free",
                hint="free some space, or point MULM_HOME at a larger disk",
            )

    def touch(self, path: Path) -> None:
        """Note that a file is used; the bytes stay as they are."""
        now_s = self._clock()
        if path.stat().st_mtime < now_s - TOUCH_S:
            os.utime(path, (now_s, now_s))

    def _fetch(self, entry: BlobEntry, here: NotFoundError | CorruptError) -> Path:
        """Get a blob from the origin; without one the trouble `here` is all there is to say."""
        if self._origin is None:
            raise here
        _log.info("fetch name=%s size_bytes=%d", entry.name, entry.size_bytes)
        self._receive(self._origin.fetch(entry.sha256), entry)
        return self._blob_path(entry.sha256)

    def _receive(
        self, chunks: Iterable[bytes], expected: BlobEntry | None = None
    ) -> tuple[str, int]:
        """Store a stream under its hash, which is returned with its size.

        Raises:
            CorruptError: it is not what was expected; nothing was stored.
        """
        incoming = self.begin()
        try:
            for chunk in chunks:
                incoming.write(chunk)
                if expected and incoming.size_bytes > expected.size_bytes:
                    raise _corrupt(expected, _ORIGIN_HINT)
            if expected and incoming.sha256 != expected.sha256:
                raise _corrupt(expected, _ORIGIN_HINT)
            kept = self.keep("", incoming)
        finally:
            incoming.discard()
        return kept.sha256, kept.size_bytes

    def _remove_stale(self) -> None:
        for path in (self.root / "incoming").glob("*"):
            with contextlib.suppress(FileNotFoundError):  # another process removes it, or is done
                if path.stat().st_mtime < self._clock() - _STALE_S:
                    path.unlink()

    def _blob_path(self, digest: str) -> Path:
        return self.root / "blobs" / digest[:2] / digest

    def existing(self, entry: BlobEntry) -> Path:
        """Where a blob lies, of which only the size is checked. Raises as `path` does."""
        path = self._blob_path(entry.sha256)
        try:
            size_bytes = path.stat().st_size
        except FileNotFoundError:
            raise NotFoundError(
                f"the file {entry.name!r} is missing from the store",
                hint=_HINT,
                sha256=entry.sha256,
            ) from None
        if size_bytes != entry.size_bytes:
            raise _corrupt(entry)
        return path


def _holds(path: Path, digest: str) -> bool:
    return path.exists() and hash_file(path) == digest


def _corrupt(entry: BlobEntry, hint: str = _HINT) -> CorruptError:
    return CorruptError(
        f"the file {entry.name!r} does not match its checksum",
        hint=hint,
        sha256=entry.sha256,
    )
