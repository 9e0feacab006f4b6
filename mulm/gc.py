"""Garbage collection: what nothing needs any more leaves the store.

Called by `mulm data gc`: `plan_gc` decides and changes nothing, `collect` removes what the plan
names. Invariants: what a name, a file of the ledger, a run that has not ended, or a kept version
was made from needs is never removed; nor is what was made or used within the grace period or since
the oldest unended run began. What an ended run made is kept by its name alone. A collection that is
killed leaves no version without its files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from mulm.blobs import TOUCH_S
from mulm.facts import Facts
from mulm.lineage import with_ancestors
from mulm.manifest import Kind, Manifest, is_manifest_id
from mulm.records import Run
from mulm.store import Store

_CHECKSUM = re.compile(r"[0-9a-f]{64}")
GRACE_S = 86_400.0
"""By default what is younger stays: an import or a build may be about to name it."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the store's folder."""

    path: Path
    size_bytes: int
    time_s: float

    @property
    def name(self) -> str:
        """The hash of a blob, the id of a version, the key of a step."""
        return self.path.stem


Files = tuple[StoredFile, ...]


@dataclass(frozen=True, slots=True)
class GcPlan:
    """What would go, in the order in which it goes."""

    markers: Files
    manifests: Files
    blobs: Files
    leftovers: Files
    cutoff_s: float
    """Files with a later time stay."""
    unended_runs: tuple[str, ...]
    """Since they may go on, what is newer than their beginning stays."""

    @property
    def files(self) -> Files:
        """All of it. A marker goes before its result, a version before its files."""
        return self.markers + self.manifests + self.blobs + self.leftovers

    @property
    def size_bytes(self) -> int:
        """What it would free."""
        return sum(file.size_bytes for file in self.files)


def plan_gc(store: Store, facts: Facts, now_s: float, grace_s: float = GRACE_S) -> GcPlan:
    """Decide what may go.

    Raises:
        CorruptError: the manifest of a needed version is damaged, so what it needs is not known.
    """
    here = Store(store.root)  # without an origin: what is not here needs nothing here
    files = _listed(store.root)
    unended = [run for run in facts.runs() if not run.has_ended]
    cutoff_s = min([now_s - grace_s, *(run.created_s - TOUCH_S for run in unended)])
    young = [marker for marker in files.markers if marker.time_s >= cutoff_s]
    kept = _kept(here, facts, [*_young_manifests(files, cutoff_s), *_named_by(young)])
    needed = {entry.sha256 for manifest in kept.values() for entry in manifest.blobs}
    needed.update(_named_by(young))
    needed.update(file.sha256 for file in facts.files())
    needed.update(*map(checksums_in, unended))
    blobs = _old(files.blobs, cutoff_s, needed)
    manifests = _old(files.manifests, cutoff_s, set(kept))
    there = {file.name for file in files.blobs + files.manifests}
    there -= {file.name for file in blobs + manifests}
    useful = {marker.name for marker in files.markers if _is_useful(marker, there)}
    return GcPlan(
        markers=_old(files.markers, cutoff_s, useful),
        manifests=manifests,
        blobs=blobs,
        leftovers=_old(files.leftovers, cutoff_s, set()),
        cutoff_s=cutoff_s,
        unended_runs=tuple(run.id for run in unended),
    )


def checksums_in(run: Run) -> set[str]:
    """The checksums in a run's config: those of uploaded files that it reads among them."""
    return {text for text in run.texts if _CHECKSUM.fullmatch(text)}


def collect(plan: GcPlan) -> int:
    """Remove what a plan names, but what was used since; returns the bytes that are free now."""
    freed_bytes = 0
    for file in plan.files:
        try:
            if file.path.stat().st_mtime < plan.cutoff_s:
                file.path.unlink()
                freed_bytes += file.size_bytes
        except FileNotFoundError:
            continue  # another collection was faster
    return freed_bytes


@dataclass(frozen=True, slots=True)
class _Listing:
    blobs: Files
    manifests: Files
    markers: Files
    leftovers: Files


def _listed(root: Path) -> _Listing:
    def files(pattern: str) -> Files:
        return tuple(_stats(root.glob(pattern)))

    leftovers = [
        file
        for pattern in ("incoming/*", "blobs/*/.*.tmp", "manifests/.*.tmp", "steps/.*.tmp")
        for file in files(pattern)
    ]
    return _Listing(
        blobs=tuple(file for file in files("blobs/*/*") if file.path.name[0] != "."),
        manifests=tuple(file for file in files("manifests/*.json") if is_manifest_id(file.name)),
        markers=files("steps/*.json"),
        leftovers=tuple(leftovers),
    )


def _stats(paths: Iterable[Path]) -> Iterator[StoredFile]:
    for path in sorted(paths):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # it was renamed or removed since it was listed
        yield StoredFile(path, status.st_size, status.st_mtime)


def _kept(store: Store, facts: Facts, more_ids: Iterable[str]) -> dict[str, Manifest]:
    """What is needed for itself, and all that it was made from, as far as it is in the store."""
    needed = {version.manifest_id for kind in get_args(Kind) for version in facts.versions(kind)}
    for run in facts.runs():
        needed.update(_needed_by(run))
    needed.update(more_ids)
    return with_ancestors(store, sorted(needed.intersection(store.manifest_ids())))


def _needed_by(run: Run) -> set[str]:
    """What a run reads that has not ended; what an ended one made is kept by its name."""
    return set() if run.has_ended else {text for text in run.texts if is_manifest_id(text)}


def _young_manifests(files: _Listing, cutoff_s: float) -> list[str]:
    return [file.name for file in files.manifests if file.time_s >= cutoff_s]


def _named_by(markers: Iterable[StoredFile]) -> set[str]:
    """The ids and hashes in markers; nothing for one that cannot be read."""
    found: set[str] = set()
    for marker in markers:
        try:
            values = json.loads(marker.path.read_bytes())
            names = [values["manifest"]] if "manifest" in values else values["blobs"]
            found.update(name if isinstance(name, str) else name["sha256"] for name in names)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _is_useful(marker: StoredFile, there: set[str]) -> bool:
    named = _named_by([marker])
    return bool(named) and named <= there


def _old(files: Files, cutoff_s: float, kept: set[str]) -> Files:
    return tuple(file for file in files if file.time_s < cutoff_s and file.name not in kept)
