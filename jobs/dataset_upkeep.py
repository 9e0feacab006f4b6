"""Upkeep of the shelf: every checksum read again, and what nothing needs removed.

Called by `mulm data verify` and `gc`; `mulm.damage` and `mulm.gc` do most of the work. Invariant:
nothing is removed here but by `mulm.gc`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jobs.dataset_shelf import HomeShelf
from jobs.progress import Progress
from mulm.damage import verify
from mulm.errors import CorruptError, NotFoundError
from mulm.gc import collect, plan_gc
from mulm.lineage import lineage

_HOUR_S = 3600.0


def verified(shelf: HomeShelf, ref: str | None, progress: Progress) -> dict[str, Any]:
    """Read every file of a version and of its parents, or of all versions of any kind.

    Raises:
        NotFoundError: there is no such version.
    """
    ids = shelf.family(ref) if ref else shelf.store.manifest_ids()

    def tell(done: int, total: int) -> None:
        progress.event(
            "progress", {"stage": "verify", "done": done, "total": total, "unit": "files"}
        )

    damages = verify(shelf.store, ids, tell)
    progress.clear()
    told = [asdict(damage) | {"refs": _refs_of(shelf, damage.manifest_id)} for damage in damages]
    return {"versions": len(ids), "damages": told}


def _refs_of(shelf: HomeShelf, manifest_id: str) -> list[str]:
    """The names of a version and of what was made from it: what a person can build again."""
    try:
        found = lineage(shelf.store, shelf.facts, manifest_id)
    except (NotFoundError, CorruptError):
        return []  # a damaged manifest does not say what it belongs to
    relatives = [ref for relative in found.descendants for ref in relative.refs]
    return sorted({*found.refs, *relatives})


def collected(shelf: HomeShelf, grace_hours: float, *, is_dry: bool) -> dict[str, Any]:
    """Remove what nothing needs, or only say what that is.

    Raises:
        CorruptError: a needed version is damaged, so that what it needs is not known.
    """
    plan = plan_gc(shelf.store, shelf.facts, shelf.clock(), grace_hours * _HOUR_S)
    freed_bytes = 0 if is_dry else collect(plan)
    return {
        "is_dry_run": is_dry,
        "versions": [file.name for file in plan.manifests],
        "files": len(plan.files),
        "size_bytes": plan.size_bytes,
        "freed_bytes": freed_bytes,
        "unended_runs": list(plan.unended_runs),
    }
