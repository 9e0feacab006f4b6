"""Uploading versions with all that they were made from to a store elsewhere.

Called by `jobs.push`. Invariants: blobs come before the manifest that names them, parents before
children, so an upload that is killed at any moment names nothing that is not there; what is there
in its full size is skipped, so doing it again goes on, and mends what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mulm.errors import CorruptError
from mulm.lineage import with_ancestors
from mulm.manifest import BlobEntry
from mulm.origin import FsOrigin
from mulm.store import Store


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What an upload wrote."""

    n_versions: int
    n_blobs: int
    size_bytes: int


def push(
    store: Store,
    url: str,
    manifest_ids: Iterable[str],
    progress: Callable[[int, int], None] = lambda _done_bytes, _total_bytes: None,
) -> Uploaded:
    """Upload versions and their ancestors to a store at a URL.

    An ancestor that is not in this store any more is left out: no version needs it to be used.

    Raises:
        NotFoundError: no such version, or a file of it is missing.
        CorruptError: a file is damaged, and not uploaded; or the other side has not kept it whole.
        UnreachableError, AuthError: the other side is not there, or refuses.
        ConfigError: the URL cannot be opened or written for another reason.
    """
    origin = FsOrigin(url)
    manifests = with_ancestors(store, manifest_ids).values()
    total_bytes = sum(entry.size_bytes for manifest in manifests for entry in manifest.blobs)
    n_versions = n_blobs = size_bytes = done_bytes = 0
    for manifest in manifests:
        for entry in manifest.blobs:
            if not origin.has_blob(entry.sha256, entry.size_bytes):
                _put(origin, store, entry)
                n_blobs, size_bytes = n_blobs + 1, size_bytes + entry.size_bytes
            done_bytes += entry.size_bytes
            progress(done_bytes, total_bytes)
        content = manifest.to_bytes()
        if not origin.has_manifest(manifest.id, len(content)):
            origin.put_manifest(manifest.id, content)
            n_versions += 1
    return Uploaded(n_versions, n_blobs, size_bytes)


def _put(origin: FsOrigin, store: Store, entry: BlobEntry) -> None:
    origin.put_blob(entry.sha256, store.path(entry))
    if not origin.has_blob(entry.sha256, entry.size_bytes):
        raise CorruptError(
            f"the store at {origin.url!r} did not keep {entry.name!r} in its full size",
            hint="check the credentials and the server; then push again",
        )
