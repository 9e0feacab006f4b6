"""Upkeep of the shelf: every checksum read again, and what nothing needs removed.

Called by `mulm data verify`, `rm` and `gc`; `mulm.damage` and `mulm.gc` do most of the work.
Invariant: a name is taken away only from what no alias, no model and no unended run needs.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from actors.write_fact import write_fact
from jobs.dataset_shelf import HomeShelf
from jobs.progress import Progress
from mulm.damage import verify
from mulm.errors import ConflictError, CorruptError, NotFoundError
from mulm.gc import collect, plan_gc
from mulm.lineage import lineage
from mulm.records import Version
from mulm.refs import parse_ref

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


def removable(shelf: HomeShelf, ref: str) -> Version:
    """The version, if nothing needs that it has its name.

    Raises:
        ConflictError: an alias points to it, a model was made from it, or a run reads it.
    """
    version = shelf.facts.resolve("dataset", parse_ref(ref))
    if aliases := shelf.aliases(version):
        raise ConflictError(
            f"{version.ref} is {version.name}@{aliases[0]}",
            hint="point the alias to another version first",
        )
    if runs := _runs_of(shelf, version):
        raise ConflictError(
            f"{version.ref} is read by {', '.join(runs)}",
            hint="a run that has not ended may go on: let it end first",
        )
    is_last_name = len(shelf.facts.published_as(version.manifest_id)) == 1
    if is_last_name and (models := _models_of(shelf, version)):
        raise ConflictError(
            f"{version.ref} is needed by {', '.join(models)}",
            hint="a model is made again, and evaluated, with the dataset that it comes from",
        )
    return version


def removed(shelf: HomeShelf, version: Version) -> list[Version]:
    """Take a name away, and that of its tokenizer if it was trained for this version alone.

    The files stay until they are collected.

    Returns:
        What has no name any more.
    """
    nameless = [version, *_tokenizers_of(shelf, version)]
    for gone in nameless:
        write_fact(shelf.home, "remove_version", gone.kind, gone.name, gone.number)
    return nameless


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


def _tokenizers_of(shelf: HomeShelf, version: Version) -> list[Version]:
    """Tokenizers of the same name that nothing else with a name was made with."""
    try:
        tokenizer_id = shelf.store.load(version.manifest_id).parents.get("tokenizer", "")
        relatives = lineage(shelf.store, shelf.facts, tokenizer_id).descendants
    except (NotFoundError, CorruptError):
        return []  # what uses it is not known
    users = {ref for found in relatives for ref in found.refs}
    names = shelf.facts.published_as(tokenizer_id)
    aliases = shelf.facts.aliases("tokenizer", version.name).values()
    is_needed = users != {version.ref} or any(
        name.number in aliases or _runs_of(shelf, name) for name in names
    )
    return [] if is_needed else [name for name in names if name.name == version.name]


def _runs_of(shelf: HomeShelf, version: Version) -> list[str]:
    """Runs that have not ended and name it; configs of runs hold names, not ids."""
    runs = (run for run in shelf.facts.runs() if not run.has_ended)
    return [run.id for run in runs if version.ref in run.texts]


def _models_of(shelf: HomeShelf, version: Version) -> list[str]:
    try:
        relatives = lineage(shelf.store, shelf.facts, version.manifest_id).descendants
    except NotFoundError:
        return []  # nothing can need what is not here
    return [ref for found in relatives if found.kind == "model" for ref in found.refs]
