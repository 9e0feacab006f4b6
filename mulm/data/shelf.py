"""The shelf: the dataset versions of one installation, with all that a version is made of.

Opened by the verbs of `mulm data` (`jobs.dataset_shelf`) and by the HTTP API. Invariant: nothing
here changes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mulm.data.corpus import UNKNOWN, Corpus
from mulm.data.diff import blob_sizes, shared_bytes
from mulm.errors import CorruptError, MulmError, NotFoundError, nearest
from mulm.facts import Facts
from mulm.lineage import Lineage, lineage
from mulm.manifest import HOW_TO_MAKE, Manifest
from mulm.records import Version
from mulm.refs import check_name, parse_ref
from mulm.store import Store

_UNBUILT_HINT = "only versions that `mulm data build` made have documents to look at"


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """A dataset version, and the versions that it was made from as far as they are there."""

    version: Version
    dataset: Manifest
    parents: dict[str, Manifest]

    @property
    def ref(self) -> str:
        """`name@number`."""
        return self.version.ref

    @property
    def manifests(self) -> dict[str, Manifest]:
        """Its parents and itself by role."""
        return {**self.parents, "dataset": self.dataset}

    @property
    def documents(self) -> Manifest:
        """What it was encoded from. Raises NotFoundError."""
        if "documents" not in self.parents:
            raise NotFoundError(f"the documents of {self.ref} are not here", hint=_UNBUILT_HINT)
        return self.parents["documents"]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each of its blobs, by checksum, those of its parents included."""
        return blob_sizes(self.manifests.values())


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of `mulm data ls`; None where a damaged version cannot tell."""

    ref: str
    id: str
    created_s: float
    aliases: tuple[str, ...]
    tokens: int | None = None
    documents: int | None = None
    size_bytes: int | None = None
    sources: tuple[str, ...] = ()
    damage: str = ""


class Shelf:
    """The dataset versions that a ledger names and a store holds."""

    def __init__(self, facts: Facts, store: Store) -> None:
        self.facts, self.store = facts, store

    def find(self, ref: str) -> DatasetVersion:
        """The version that `books`, `books@3` or `books@alias` means.

        Raises:
            NotFoundError: there is none; the hint names what is near.
            CorruptError: a manifest is damaged.
        """
        version = self.facts.resolve("dataset", parse_ref(ref))
        dataset = self.store.load(version.manifest_id)
        return DatasetVersion(version, dataset, self._parents(dataset))

    def corpus(self, found: DatasetVersion) -> Corpus:
        """The documents of a version. Raises NotFoundError if they are not here."""
        return Corpus.of(self.store, found.documents)

    def listed(self, name: str | None = None) -> list[Listed]:
        """All versions, or those of a name, oldest first; a damaged one is listed as such.

        Raises:
            NotFoundError: no version has that name.
        """
        versions = self.facts.versions("dataset", check_name(name) if name else None)
        if name and not versions:
            known = {version.name for version in self.facts.versions("dataset")}
            hint = nearest(name, known) if known else HOW_TO_MAKE["dataset"]
            raise NotFoundError(f"no dataset {name!r}", hint=hint)
        return [self._listed(version) for version in versions]

    def described(self, ref: str) -> dict[str, Any]:
        """Everything that `mulm data show` says of a version."""
        found = self.find(ref)
        others = {
            sha256: size_bytes
            for version in self.facts.versions("dataset", found.version.name)
            if version.number != found.version.number
            for sha256, size_bytes in self._sizes(version).items()
        }
        return {
            "dataset": found.ref,
            "dataset_id": found.dataset.id,
            "aliases": list(self.aliases(found.version)),
            "created_s": found.version.created_s,
            "code_version": found.dataset.code_version,
            "counts": dict(found.dataset.counts),
            "document_counts": dict(found.parents["documents"].counts)
            if "documents" in found.parents
            else {},
            "sources": self._sources(found),
            "rules": _rules(found),
            "tokenizer_fingerprint": found.dataset.tokenizer_fingerprint,
            "licences": list(found.dataset.licences),
            "parents": {
                role: {"id": parent_id, "refs": self._refs(parent_id)}
                for role, parent_id in found.dataset.parents.items()
            },
            "files": {
                role: {"n": len(manifest.blobs), "size_bytes": sum(blob_sizes([manifest]).values())}
                for role, manifest in found.manifests.items()
            },
            "size_bytes": sum(found.sizes.values()),
            "shared_bytes": shared_bytes(found.sizes, others),
        }

    def relatives(self, ref: str) -> Lineage:
        """What a version was made from, and what was made from it."""
        return lineage(self.store, self.facts, self.find(ref).dataset.id)

    def family(self, ref: str) -> list[str]:
        """The ids of a version and of what it was made from, also of what cannot be read."""
        version = self.facts.resolve("dataset", parse_ref(ref))
        try:
            parents = self.store.load(version.manifest_id).parents
        except (NotFoundError, CorruptError):
            return [version.manifest_id]
        return [version.manifest_id, *sorted(set(parents.values()))]

    def _parents(self, dataset: Manifest) -> dict[str, Manifest]:
        found = {}
        for role, parent_id in dataset.parents.items():
            try:
                found[role] = self.store.load(parent_id)
            except NotFoundError:
                continue  # it was made elsewhere, and is not needed for training
        return found

    def _listed(self, version: Version) -> Listed:
        listed = Listed(version.ref, version.manifest_id, version.created_s, self.aliases(version))
        try:
            found = self.find(version.ref)
        except MulmError as error:
            return Listed(
                listed.ref, listed.id, listed.created_s, listed.aliases, damage=error.code
            )
        counts = found.dataset.counts
        documents = found.parents.get("documents")
        return Listed(
            listed.ref,
            listed.id,
            listed.created_s,
            listed.aliases,
            tokens=int(counts.get("train_tokens", 0) + counts.get("validation_tokens", 0)),
            documents=int(documents.counts["documents"]) if documents else None,
            size_bytes=sum(found.sizes.values()),
            sources=_labels(documents),
        )

    def _sizes(self, version: Version) -> dict[str, int]:
        try:
            return self.find(version.ref).sizes
        except (NotFoundError, CorruptError):
            return {}

    def _sources(self, found: DatasetVersion) -> list[dict[str, Any]]:
        """Each source with its settings and how many documents of it were kept."""
        if "documents" not in found.parents:
            return []
        kept: dict[str, int] = {}
        read: dict[str, int] = {}
        for chunk in self.corpus(found).chunks:
            label = chunk.source
            kept[label] = kept.get(label, 0) + int(chunk.decisions.are_kept.sum())
            read[label] = read.get(label, 0) + chunk.entry.rows
        weights = found.dataset.config.get("mixture") or {}
        config = found.documents.config.get("sources") or [{"label": label} for label in read]
        return [
            {
                **source,
                "weight": weights.get(source["label"]),
                "documents": kept.get(source["label"], 0),
                "rejected": read.get(source["label"], 0) - kept.get(source["label"], 0),
            }
            for source in config
        ]

    def aliases(self, version: Version) -> tuple[str, ...]:
        """The aliases that point to a version, sorted."""
        aliases = self.facts.aliases("dataset", version.name)
        return tuple(sorted(alias for alias, n in aliases.items() if n == version.number))

    def _refs(self, manifest_id: str) -> list[str]:
        return [version.ref for version in self.facts.published_as(manifest_id)]


def _labels(documents: Manifest | None) -> tuple[str, ...]:
    if documents is None:
        return ()
    sources = documents.config.get("sources") or []
    return tuple(str(source.get("label", UNKNOWN)) for source in sources) or (UNKNOWN,)


def _rules(found: DatasetVersion) -> dict[str, Any]:
    """What was decided by, of each role; files and sources are told elsewhere."""
    return {
        role: {k: v for k, v in manifest.config.items() if k not in ("files", "sources")}
        for role, manifest in found.manifests.items()
    }
