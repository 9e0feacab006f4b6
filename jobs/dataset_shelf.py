"""The shelf: the dataset versions of one installation, with all that a version is made of.

Opened by the verbs of `mulm data`. Reading goes through the ledger's file and the store. Invariant:
nothing here changes a version; a name is taken away only from what no alias and no model needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from actors.write_fact import write_fact
from mulm.data.corpus import UNKNOWN, Corpus
from mulm.data.diff import blob_sizes, shared_bytes
from mulm.errors import ConflictError, CorruptError, MulmError, NotFoundError, nearest
from mulm.facts import Version
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.lineage import Lineage, lineage
from mulm.manifest import Manifest
from mulm.refs import check_name, parse_ref
from mulm.store import Store, open_store

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
    """The dataset versions of an installation."""

    def __init__(self, home: Home, clock: Callable[[], float] = time.time) -> None:
        self._home = home.create()
        self.store: Store = open_store(home)
        self.facts = Ledger(home.ledger)
        self.clock = clock

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.facts.close()

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
            raise NotFoundError(f"no dataset {name!r}", hint=nearest(name, known))
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
            "aliases": list(self._aliases(found.version)),
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

    def removable(self, ref: str) -> Version:
        """The version, if nothing needs that it has its name.

        Raises:
            ConflictError: an alias points to it, or a model was made from it.
        """
        version = self.facts.resolve("dataset", parse_ref(ref))
        if aliases := self._aliases(version):
            raise ConflictError(
                f"{version.ref} is {version.name}@{aliases[0]}",
                hint="point the alias to another version first",
            )
        if len(self.facts.published_as(version.manifest_id)) == 1 and (
            models := self._models_of(version)
        ):
            raise ConflictError(
                f"{version.ref} is needed by {', '.join(models)}",
                hint="a model is made again, and evaluated, with the dataset that it comes from",
            )
        return version

    def remove(self, version: Version) -> list[Version]:
        """Take a name away, and that of its tokenizer if it was trained for this version alone.

        The files stay until `mulm data gc`.

        Returns:
            What has no name any more.
        """
        removed = [version, *self._tokenizers_of(version)]
        for gone in removed:
            write_fact(self._home, "remove_version", gone.kind, gone.name, gone.number)
        return removed

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
        listed = Listed(version.ref, version.manifest_id, version.created_s, self._aliases(version))
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

    def _aliases(self, version: Version) -> tuple[str, ...]:
        aliases = self.facts.aliases("dataset", version.name)
        return tuple(sorted(alias for alias, n in aliases.items() if n == version.number))

    def _tokenizers_of(self, version: Version) -> list[Version]:
        """Tokenizers of the same name that nothing else with a name was made with."""
        try:
            tokenizer_id = self.store.load(version.manifest_id).parents.get("tokenizer", "")
            relatives = lineage(self.store, self.facts, tokenizer_id).descendants
        except (NotFoundError, CorruptError):
            return []  # what uses it is not known
        users = {ref for found in relatives for ref in found.refs}
        names = self.facts.published_as(tokenizer_id)
        aliases = self.facts.aliases("tokenizer", version.name).values()
        is_needed = users != {version.ref} or any(name.number in aliases for name in names)
        return [] if is_needed else [name for name in names if name.name == version.name]

    def _models_of(self, version: Version) -> list[str]:
        try:
            relatives = lineage(self.store, self.facts, version.manifest_id).descendants
        except NotFoundError:
            return []  # nothing can need what is not here
        return [ref for found in relatives if found.kind == "model" for ref in found.refs]

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
