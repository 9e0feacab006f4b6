"""Building a dataset version: sources to documents, to a tokenizer, to token shards.

Called by `jobs.prepare` with an executor on Ray Data, and by anyone in process. The executor
runs the pure stages; all decisions are made here. Invariants: the manifests are the same bit
for bit for every executor; a step whose inputs are known is not run again and writes nothing;
a manifest exists only when all of its shards do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import mulm
from mulm.data.documents import (
    SHARD_BYTES,
    FileTask,
    Plan,
    from_parquet,
    make_plan,
    read_file,
)
from mulm.data.encode import Encoded, encode_shard, training_texts
from mulm.data.executor import Executor, InProcess, ShardTask
from mulm.data.recipe import Recipe
from mulm.data.sources.registry import source_of
from mulm.data.tokenizer import Tokenizer, train_tokenizer
from mulm.errors import CorruptError, DataError
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store, hash_file, step_key

DATA_VERSION = 1
"""Counts the changes of the pure stages that change their results."""
CODE_VERSION = f"{mulm.__version__}+data.{DATA_VERSION}"
TOKENIZER_SAMPLE_BYTES = 64 << 20
"""A tokenizer learns from about this much text at most, chosen by hash."""

_log = logging.getLogger(__name__)


class Emit(Protocol):
    """Tells of progress: kinds "progress" and "stage"."""

    def __call__(self, kind: str, /, **data: Any) -> None:
        """Pass one event on."""


@dataclass(frozen=True, slots=True)
class Build:
    """The three versions that a build makes, each the parent of the next."""

    documents: Manifest
    tokenizer: Manifest
    dataset: Manifest

    @property
    def rejects(self) -> dict[str, int]:
        """Rejected documents by reason."""
        counts = self.documents.counts.items()
        found = {name: int(n) for name, n in counts if name.startswith(_REJECTED)}
        return {name.removeprefix(_REJECTED): n for name, n in found.items()}


def build(
    recipe: Recipe,
    store: Store,
    executor: Executor | None = None,
    *,
    tokenizer: Manifest | None = None,
    emit: Emit | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Build:
    """Build, or find again, the dataset that a recipe describes.

    Args:
        recipe: What to build.
        store: Where shards and manifests go.
        executor: Who does the work; in process if absent.
        tokenizer: The version that `recipe.tokenizer.ref` names, if it names one.
        emit: Told of progress and finished stages.
        shard_bytes: Text in a shard.

    Raises:
        NotFoundError: a source has no files.
        UnknownNameError: a source of an unknown type.
        DataError: no document is usable, or too few for a split or for the vocabulary.
        TokenizerMismatchError: the tokenizer is not the one that the recipe pins.
        NoSpaceError: the disk is full.
    """
    assert (tokenizer is None) == (recipe.tokenizer.ref is None), "ref is resolved by the caller"
    work = _Work(recipe, store, executor or InProcess(), emit or _silent, shard_bytes)
    documents = _documents(work)
    tokenizer = tokenizer or _tokenizer(work, documents)
    _pinned(work, tokenizer)
    return Build(documents, tokenizer, _dataset(work, documents, tokenizer))


_REJECTED = "rejected_"


@dataclass(frozen=True, slots=True)
class _Work:
    recipe: Recipe
    store: Store
    executor: Executor
    emit: Emit
    shard_bytes: int

    def step(
        self,
        name: str,
        inputs: dict[str, Any],
        make: Callable[[], Manifest],
        describe: Callable[[Manifest], str],
    ) -> Manifest:
        """The remembered result of a step, else a new one; says so either way."""
        start_s = time.monotonic()
        key = step_key(name, code=CODE_VERSION, **inputs)
        known = _recall(self.store, key)
        manifest = known or make()
        if known is None:
            self.store.save(manifest)
            self.store.remember(key, manifest.id)
        text = describe(manifest) + (", known already" if known else "")
        self.emit("stage", name=name, seconds=time.monotonic() - start_s, text=text)
        return manifest

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        self.emit("progress", stage=stage, done=done, total=total, unit=unit)


def _documents(work: _Work) -> Manifest:
    """Read, cut, clean, deduplicate, split: a version of kind "documents"."""
    recipe, tasks = work.recipe, _list_files(work.recipe)
    config = {
        "sources": _identities(recipe, tasks),
        "clean": recipe.clean.model_dump(mode="json"),
        "split": recipe.split.model_dump(mode="json"),
        "shard_bytes": work.shard_bytes,
    }

    def make() -> Manifest:
        work.store.require_space(4 * sum(task.file.path.stat().st_size for task in tasks))
        work.progress("documents", 0, len(tasks), "files")
        read = partial(read_file, rules=recipe.clean, by=recipe.split.by)
        index = work.executor.read(tasks, read)
        plan = make_plan(index, recipe.split, work.shard_bytes)
        if not plan.n_kept:
            raise _nothing_left(plan)
        work.progress("documents", len(tasks), len(tasks), "files")
        blobs = _store_documents(work, plan)
        counts: dict[str, int | float] = {
            "files": len(tasks),
            "documents": plan.n_kept,
            "train_documents": _rows(blobs, "train"),
            "validation_documents": _rows(blobs, "validation"),
            **{f"{_REJECTED}{reason}": n for reason, n in plan.reasons.items()},
        }
        return Manifest(
            kind="documents",
            code_version=CODE_VERSION,
            config=config,
            licences=_licences(recipe),
            counts=counts,
            blobs=blobs,
        )

    return work.step("documents", config, make, _describe_documents)


def _tokenizer(work: _Work, documents: Manifest) -> Manifest:
    """Train a tokenizer on the training documents: a version of kind "tokenizer"."""
    recipe = work.recipe
    config = {
        "vocab_size": recipe.tokenizer.vocab_size,
        "chat_fraction": recipe.chat_fraction,
        "sample_bytes": TOKENIZER_SAMPLE_BYTES,
    }

    def make() -> Manifest:
        work.progress("tokenizer", 0, recipe.tokenizer.vocab_size, "tokens")
        entries = _of(documents, "train")
        n_bytes = sum(entry.size_bytes for entry in entries) * _TEXT_BYTES_PER_STORED_BYTE
        texts = training_texts(
            (work.store.read(entry) for entry in entries),
            recipe.chat_fraction,
            part=min(1.0, TOKENIZER_SAMPLE_BYTES / max(1, n_bytes)),
        )
        made = train_tokenizer(texts, recipe.tokenizer.vocab_size)
        return Manifest(
            kind="tokenizer",
            code_version=CODE_VERSION,
            config=config,
            parents={"documents": documents.id},
            tokenizer_fingerprint=made.fingerprint,
            licences=documents.licences,
            counts={"vocab_size": made.vocab_size},
            blobs=(work.store.put("tokenizer.json", made.to_bytes()),),
        )

    return work.step(
        "tokenizer", config | {"documents": documents.id}, make, _describe_tokenizer
    )


def _dataset(work: _Work, documents: Manifest, tokenizer: Manifest) -> Manifest:
    """Encode all documents: a version of kind "dataset"."""
    chat_fraction = work.recipe.chat_fraction
    parents = {"documents": documents.id, "tokenizer": tokenizer.id}

    def make() -> Manifest:
        entry = tokenizer.blob("tokenizer.json")
        tokenizer_json = work.store.read(entry)
        blobs, counts = _store_tokens(work, documents, tokenizer_json, chat_fraction)
        held_out = _held_out_text(work.store, documents)
        assert len(held_out) == counts["validation_bytes"]
        return Manifest(
            kind="dataset",
            code_version=CODE_VERSION,
            config={"chat_fraction": chat_fraction},
            parents=parents,
            tokenizer_fingerprint=tokenizer.tokenizer_fingerprint,
            licences=documents.licences,
            counts=counts | {"vocab_size": int(tokenizer.counts["vocab_size"])},
            blobs=(*blobs, work.store.put("validation.txt", held_out), entry),
        )

    return work.step("dataset", parents | {"chat_fraction": chat_fraction}, make, _describe_dataset)


# Zstandard makes about a third of prose; this only sets how much a tokenizer reads.
_TEXT_BYTES_PER_STORED_BYTE = 3
