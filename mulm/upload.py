"""Uploading a version with all that it was made from, for machines without a shared disk.

Called by the command line. Invariants: blobs come before the manifest that names them, parents
before children, so an upload that is killed at any moment names nothing that is not there; what is
there in its full size is skipped, so doing it again goes on, and mends what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mulm.lineage import with_ancestors
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
    manifest_id: str,
    progress: Callable[[int, int], None] = lambda _done_bytes, _total_bytes: None,
) -> Uploaded:
    """Upload a version and its ancestors to a store at a URL.

    An ancestor that is not in this store any more is left out: no version needs it to be used.

    Raises:
        NotFoundError: no such version, or a file of it is missing.
        CorruptError: a file is damaged; nothing damaged is uploaded.
        ConfigError: the URL cannot be opened or written.
    """
    origin = FsOrigin(url)
    manifests = with_ancestors(store, [manifest_id]).values()
    total_bytes = sum(entry.size_bytes for manifest in manifests for entry in manifest.blobs)
    n_versions = n_blobs = size_bytes = done_bytes = 0
    for manifest in manifests:
        for entry in manifest.blobs:
            if not origin.has_blob(entry.sha256, entry.size_bytes):
                origin.put_blob(entry.sha256, store.path(entry))
                n_blobs, size_bytes = n_blobs + 1, size_bytes + entry.size_bytes
            done_bytes += entry.size_bytes
            progress(done_bytes, total_bytes)
        if not origin.has_manifest(manifest.id):
            origin.put_manifest(manifest.id, manifest.to_bytes())
            n_versions += 1
    return Uploaded(n_versions, n_blobs, size_bytes)
