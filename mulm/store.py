"""The store: immutable blobs and manifests, addressed by their content.

Called by every job and by the engine host. Invariants: a blob's name is its SHA-256, so
writing twice is harmless and reading can be checked; a manifest is written only after all
of its blobs; nothing is ever changed in place.

    blobs/ab/abcdef...      the bytes
    manifests/ds_....json   versions
    steps/<key>.json        markers of finished steps: same inputs, so no need to run again
    incoming/               blobs of which the name is not known yet; old ones are leftovers
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from mulm.atomic import atomic_file, make_folder, sync_folder, write_atomic
from mulm.config import canonical_json
from mulm.errors import CorruptError, NoSpaceError, NotFoundError
from mulm.manifest import BlobEntry, Manifest, parse_manifest

_log = logging.getLogger(__name__)

_HINT = (
    "run the command that made it again (`mulm data build`, `mulm train`): it mends what is damaged"
)


_STALE_S = 86_400.0
"""No stream goes so long without a byte: what wrote this was killed."""


class Store:
    """A content-addressed store in a local folder."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self._clock = clock

    def put(self, name: str, content: bytes, rows: int = 0) -> BlobEntry:
        """Store bytes and return the entry for a manifest.

        Known bytes are not written again, unless their stored copy is damaged.

        Raises:
            NoSpaceError: the disk is full; nothing was stored.
        """
        digest = hashlib.sha256(content).hexdigest()
        path = self._blob_path(digest)
        if not _holds(path, digest):
            write_atomic(path, content, mode=0o444)
        return BlobEntry(name=name, sha256=digest, size_bytes=len(content), rows=rows)

    def put_stream(self, name: str, chunks: Iterable[bytes]) -> BlobEntry:
        """As `put`, for what need not fit into memory.

        Raises:
            NoSpaceError: the disk is full; nothing was stored.
        """
        self._remove_stale()
        digest, size_bytes = hashlib.sha256(), 0
        incoming = self.root / "incoming" / secrets.token_hex(8)
        with atomic_file(incoming, mode=0o444) as file:
            for chunk in chunks:
                digest.update(chunk)
                size_bytes += file.write(chunk)
        path = self._blob_path(digest.hexdigest())
        make_folder(path.parent)
        incoming.replace(path)
        sync_folder(path.parent)
        return BlobEntry(name=name, sha256=digest.hexdigest(), size_bytes=size_bytes)

    def read(self, entry: BlobEntry) -> bytes:
        """The bytes of a blob, checked.

        Raises:
            NotFoundError: the blob is missing.
            CorruptError: its bytes do not match the checksum.
        """
        content = self._existing(entry).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise _corrupt(entry)
        return content

    def path(self, entry: BlobEntry) -> Path:
        """Where a blob lies, checked, for memory mapping. Never write to it.

        Raises:
            NotFoundError: the blob is missing.
            CorruptError: its bytes do not match the checksum.
        """
        path = self._existing(entry)
        if hash_file(path) != entry.sha256:
            raise _corrupt(entry)
        return path

    def save(self, manifest: Manifest) -> str:
        """Write a manifest whose blobs are all stored, also over a damaged one; returns its id."""
        for entry in manifest.blobs:
            self._existing(entry)
        path, content = self._manifest_path(manifest.id), manifest.to_bytes()
        if not path.exists() or path.read_bytes() != content:
            write_atomic(path, content, mode=0o444)
        return manifest.id

    def load(self, manifest_id: str) -> Manifest:
        """Read a manifest back, checked.

        Raises:
            NotFoundError: no manifest of that id.
            CorruptError: its bytes do not match its id.
        """
        try:
            content = self._manifest_path(manifest_id).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"no version {manifest_id!r} in the store") from None
        return parse_manifest(content, manifest_id)

    def remember(self, key: str, manifest_id: str) -> None:
        """Mark the step with this input key (see `step_key`) as finished."""
        write_atomic(self._step_path(key), canonical_json({"manifest": manifest_id}))

    def recall(self, key: str) -> Manifest | None:
        """The result of a finished step, if all of it is still there and whole.

        What is lost or damaged counts as unknown: making it again mends it.
        """
        try:
            marker = json.loads(self._step_path(key).read_bytes())
            manifest = self.load(str(marker["manifest"]))
            for entry in manifest.blobs:
                self.path(entry)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, NotFoundError, CorruptError) as error:
            _log.info("a finished step is made again key=%s reason=%s", key, error)
            return None
        return manifest

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

    def _remove_stale(self) -> None:
        for path in (self.root / "incoming").glob("*"):
            with contextlib.suppress(FileNotFoundError):  # another process removes it, or is done
                if path.stat().st_mtime < self._clock() - _STALE_S:
                    path.unlink()

    def _blob_path(self, digest: str) -> Path:
        return self.root / "blobs" / digest[:2] / digest

    def _manifest_path(self, manifest_id: str) -> Path:
        if not re.fullmatch(r"[a-z]+_[0-9a-f]{24}", manifest_id):
            raise NotFoundError(f"{manifest_id!r} is not a version id")
        return self.root / "manifests" / f"{manifest_id}.json"

    def _step_path(self, key: str) -> Path:
        return self.root / "steps" / f"{key}.json"

    def _existing(self, entry: BlobEntry) -> Path:
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


def step_key(step: str, **inputs: object) -> str:
    """The key of a pipeline step: a hash over its name and all that its result depends on."""
    return hashlib.sha256(canonical_json({"step": step, **inputs})).hexdigest()


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _holds(path: Path, digest: str) -> bool:
    return path.exists() and hash_file(path) == digest


def _corrupt(entry: BlobEntry) -> CorruptError:
    return CorruptError(
        f"the file {entry.name!r} does not match its checksum",
        hint=_HINT,
        sha256=entry.sha256,
    )
