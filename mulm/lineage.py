"""Lineage: what a version was made from, and what was made from it, with names.

Called by the command line, the upload and the garbage collection. Invariant: what is not in the
store any more is still told by its id, since a child names its parents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mulm.errors import NotFoundError
from mulm.facts import Facts
from mulm.manifest import Kind, Manifest, is_manifest_id
from mulm.store import Store


@dataclass(frozen=True, slots=True)
class Relative:
    """A version or run at some distance from the one that was asked for."""

    id: str
    role: str
    """What it is, or its child is, to the next one on the way: "documents", "dataset", "run" ..."""
    distance: int
    kind: Kind | None
    """None for a run and for what is not in the store."""
    refs: tuple[str, ...]
    """Its names, such as `books@3`."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """A version between its ancestors and its descendants, each told once, the nearest first."""

    id: str
    kind: Kind
    refs: tuple[str, ...]
    ancestors: tuple[Relative, ...]
    descendants: tuple[Relative, ...]


Edge = tuple[str, str]
"""A role, and the id of a relative."""


def lineage(store: Store, facts: Facts, manifest_id: str) -> Lineage:
    """The relatives of a version among all that is in the store.

    Raises:
        NotFoundError: no such version.
        CorruptError: a manifest in the store is damaged.
    """
    manifests = with_ancestors(store, [manifest_id, *store.manifest_ids()])
    parents = {child.id: list(child.parents.items()) for child in manifests.values()}
    children: dict[str, list[Edge]] = {}
    for child_id, edges in parents.items():
        for role, parent_id in edges:
            children.setdefault(parent_id, []).append((role, child_id))

    def told(edges: dict[str, list[Edge]]) -> tuple[Relative, ...]:
        return tuple(
            Relative(
                found_id, role, distance, _kind(manifests.get(found_id)), _refs(facts, found_id)
            )
            for role, found_id, distance in _walk(edges, manifest_id)
        )

    kind = manifests[manifest_id].kind
    return Lineage(manifest_id, kind, _refs(facts, manifest_id), told(parents), told(children))


def with_ancestors(store: Store, manifest_ids: Iterable[str]) -> dict[str, Manifest]:
    """These versions and all that they were made from; parents come before their children.

    Ancestors that are not in the store are left out.

    Raises:
        NotFoundError: one of `manifest_ids` is not in the store.
        CorruptError: a manifest is damaged.
    """
    found: dict[str, Manifest] = {}
    waiting = [(manifest_id, True) for manifest_id in reversed(list(manifest_ids))]
    opened: dict[str, Manifest] = {}
    while waiting:
        manifest_id, is_asked_for = waiting.pop()
        if manifest_id in found:
            continue
        if manifest_id in opened:  # its parents are done
            found[manifest_id] = opened[manifest_id]
            continue
        try:
            manifest = opened[manifest_id] = store.load(manifest_id)
        except NotFoundError:
            if is_asked_for:
                raise
            continue
        waiting.append((manifest_id, is_asked_for))
        waiting += [(p, False) for p in sorted(manifest.parents.values()) if is_manifest_id(p)]
    return found


def _walk(edges: dict[str, list[Edge]], start_id: str) -> list[tuple[str, str, int]]:
    """(role, id, distance) of all that can be reached, the nearest first, each once."""
    seen, found, front, distance = {start_id}, [], [start_id], 0
    while front:
        distance += 1
        reached = sorted(edge for origin_id in front for edge in edges.get(origin_id, []))
        front = []
        for role, found_id in reached:
            if found_id not in seen:
                seen.add(found_id)
                front.append(found_id)
                found.append((role, found_id, distance))
    return found


def _kind(manifest: Manifest | None) -> Kind | None:
    return manifest.kind if manifest else None


def _refs(facts: Facts, manifest_id: str) -> tuple[str, ...]:
    return tuple(version.ref for version in facts.published_as(manifest_id))
