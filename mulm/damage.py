"""Damage: files of versions that are missing or do not match their checksums.

Called by `mulm data verify`. Invariants: every byte is read again; a file that versions share is
read once; with an origin, what can be mended from there is mended and is no damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from mulm.checksum import in_threads
from mulm.errors import CorruptError, NotFoundError
from mulm.manifest import BlobEntry
from mulm.store import Store


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of a version that cannot be read."""

    manifest_id: str
    file: str
    """Its name inside the version; "manifest" for that itself."""
    reason: str


def verify(
    store: Store,
    manifest_ids: Iterable[str],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Damage]:
    """Read all files of some versions; `progress` hears how many of how many are done."""
    damages: list[Damage] = []
    files: dict[str, list[tuple[str, BlobEntry]]] = {}
    for manifest_id in dict.fromkeys(manifest_ids):
        try:
            for entry in store.load(manifest_id).blobs:
                files.setdefault(entry.sha256, []).append((manifest_id, entry))
        except (NotFoundError, CorruptError) as error:
            damages.append(Damage(manifest_id, "manifest", error.message))
    checked = in_threads(partial(_check, store), files.values())
    for done, found in enumerate(checked, start=1):
        damages += found
        progress(done, len(files))
    return damages


def _check(store: Store, users: list[tuple[str, BlobEntry]]) -> list[Damage]:
    try:
        store.path(users[0][1])
    except (NotFoundError, CorruptError) as error:
        return [Damage(manifest_id, entry.name, error.message) for manifest_id, entry in users]
    return []
