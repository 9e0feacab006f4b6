"""Building a dataset version: sources to documents, to a tokenizer, to token shards.

Called by `jobs.prepare` with an executor on Ray Data, and by anyone in process. The executor
runs the pure stages; all decisions are made here. Invariants: the manifests are the same bit
for bit for every executor; a step whose inputs are known is not run again and writes nothing;
a manifest exists only when all of its shards do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mulm
from mulm.data.documents import (
    SHARD_BYTES,
    FileTask,
    Plan,
    from_parquet,
    make_plan,
    read_file,
)
from mulm.data.encode import encode_shard, training_texts
from mulm.data.executor import Executor, InProcess, ShardTask
from mulm.data.recipe import Recipe
from mulm.data.sources.listing import identities, licences, list_files
from mulm.data.steps import Emit, Steps, silent
from mulm.data.tokenizer import Tokenizer, train_tokenizer
from mulm.errors import DataError
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store

DATA_VERSION = 1
"""Counts the changes of the pure stages that change their results."""
CODE_VERSION = f"{mulm.__version__}+data.{DATA_VERSION}"
TOKENIZER_SAMPLE_BYTES = 64 << 20
"""A tokenizer learns from about this much text at most, chosen by hash."""
_REJECTED = "rejected_"


@dataclass(frozen=True, slots=True)
class Build:
    """The three versions that a build makes, each the parent of the next."""

    documents: Manifest
    tokenizer: Manifest
    dataset: Manifest

    @property
    def rejects(self) -> dict[str, int]:
        """Number of rejected documents by reason."""
        return {
            name.removeprefix(_REJECTED): int(count)
            for name, count in self.documents.counts.items()
            if name.startswith(_REJECTED)
        }


def build(
    recipe: Recipe,
    store: Store,
    executor: Executor | None = None,
    *,
    tokenizer: Manifest | None = None,
    emit: Emit = silent,
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
        UnknownNameError: a source is of an unknown type.
        DataError: no document is usable, or too few for a split or for the vocabulary.
        TokenizerMismatchError: the tokenizer is not the one that the recipe pins.
        NoSpaceError: the disk is full.
    """
    assert (tokenizer is None) == (recipe.tokenizer.ref is None), "the caller resolves the ref"
    steps, executor = Steps(store, emit, CODE_VERSION), executor or InProcess()
    _check_pin(recipe, store, tokenizer)
    documents = _documents(recipe, steps, executor, shard_bytes)
    tokenizer = tokenizer or _tokenizer(recipe, steps, documents)
    _check_pin(recipe, store, tokenizer)
    return Build(documents, tokenizer, _dataset(recipe, steps, executor, documents, tokenizer))


def _documents(recipe: Recipe, steps: Steps, executor: Executor, shard_bytes: int) -> Manifest:
    """Read, cut, clean, deduplicate, split: a version of kind "documents"."""
    tasks = list_files(recipe)
    config = {
        "files": identities(tasks),
        "licences": list(licences(recipe)),
        "clean": recipe.clean.model_dump(mode="json"),
        "split": recipe.split.model_dump(mode="json"),
        "shard_bytes": shard_bytes,
    }

    def make() -> Manifest:
        steps.store.require_space(4 * sum(task.file.path.stat().st_size for task in tasks))
        steps.progress("documents", 0, len(tasks), "files")
        read = partial(read_file, rules=recipe.clean, by=recipe.split.by)
        plan = make_plan(executor.read(tasks, read), recipe.split, shard_bytes)
        steps.progress("documents", len(tasks), len(tasks), "files")
        _require_documents(plan, tasks)
        return Manifest(
            kind="documents",
            code_version=CODE_VERSION,
            config=config,
            licences=licences(recipe),
            counts={
                "files": len(tasks),
                "documents": plan.n_kept,
                **{f"{side}_bytes": n for side, n in plan.bytes_by_side.items()},
                **{f"{_REJECTED}{reason}": n for reason, n in plan.reasons.items()},
            },
            blobs=_store_documents(steps, executor, plan),
        )

    return steps.run("documents", config, make, _describe_documents)


def _tokenizer(recipe: Recipe, steps: Steps, documents: Manifest) -> Manifest:
    """Learn from the training documents: a version of kind "tokenizer"."""
    vocab_size = recipe.tokenizer.vocab_size
    config: dict[str, Any] = {
        "vocab_size": vocab_size,
        "chat_fraction": recipe.chat_fraction,
        "sample_bytes": TOKENIZER_SAMPLE_BYTES,
    }

    def make() -> Manifest:
        steps.progress("tokenizer", 0, vocab_size, "tokens")
        shards = (steps.store.read(entry) for entry in _of(documents, "train-"))
        part = TOKENIZER_SAMPLE_BYTES / documents.counts["train_bytes"]
        learned = train_tokenizer(training_texts(shards, recipe.chat_fraction, part), vocab_size)
        return Manifest(
            kind="tokenizer",
            code_version=CODE_VERSION,
            config=config,
            parents={"documents": documents.id},
            tokenizer_fingerprint=learned.fingerprint,
            licences=documents.licences,
            counts={"vocab_size": learned.vocab_size},
            blobs=(steps.store.put("tokenizer.json", learned.to_bytes()),),
        )

    inputs = config | {"documents": documents.id}
    return steps.run("tokenizer", inputs, make, lambda m: f"{m.counts['vocab_size']} tokens")


def _dataset(
    recipe: Recipe, steps: Steps, executor: Executor, documents: Manifest, tokenizer: Manifest
) -> Manifest:
    """Encode all documents: a version of kind "dataset"."""
    parents = {"documents": documents.id, "tokenizer": tokenizer.id}
    config: dict[str, Any] = {"chat_fraction": recipe.chat_fraction}
    vocabulary = tokenizer.blob("tokenizer.json")

    def make() -> Manifest:
        tokenizer_json = steps.store.read(vocabulary)
        shards, counts = _store_tokens(recipe, steps, executor, documents, tokenizer_json)
        held_out = _held_out_text(steps.store, documents)
        assert len(held_out) == counts["validation_bytes"], "text and tokens must be the same"
        return Manifest(
            kind="dataset",
            code_version=CODE_VERSION,
            config=config,
            parents=parents,
            tokenizer_fingerprint=tokenizer.tokenizer_fingerprint,
            licences=documents.licences,
            counts=counts | {"vocab_size": tokenizer.counts["vocab_size"]},
            blobs=(*shards, steps.store.put("validation.txt", held_out), vocabulary),
        )

    return steps.run("dataset", config | parents, make, _describe_dataset)


def _store_documents(steps: Steps, executor: Executor, plan: Plan) -> tuple[BlobEntry, ...]:
    entries = []
    for number, content, n_documents in executor.shards(plan):
        entries.append(steps.store.put(plan.shard_names[number], content, n_documents))
        steps.progress("documents", len(entries), len(plan.shard_names), "shards")
    assert len(entries) == len(plan.shard_names), "an executor lost a shard"
    return tuple(sorted(entries, key=lambda entry: entry.name))


def _store_tokens(
    recipe: Recipe, steps: Steps, executor: Executor, documents: Manifest, tokenizer_json: bytes
) -> tuple[tuple[BlobEntry, ...], dict[str, int | float]]:
    """Token shards, one for each shard of documents, and the counts of both splits."""
    sources = [*_of(documents, "train-"), *_of(documents, "validation-")]
    tasks = [
        ShardTask(
            partial(steps.store.read, entry),
            recipe.chat_fraction if entry.name.startswith("train-") else 0.0,
        )
        for entry in sources
    ]
    entries: list[BlobEntry] = []
    counts: dict[str, int | float] = {}
    for place, encoded in executor.encode(tasks, partial(encode_shard, tokenizer_json)):
        stem = sources[place].name.removesuffix(".parquet")
        entries.append(steps.store.put(f"{stem}.bin", encoded.content, encoded.n_tokens))
        for what, count in encoded.counts.items():
            name = f"{stem.partition('-')[0]}_{what}"
            counts[name] = counts.get(name, 0) + count
        steps.progress("dataset", len(entries), len(tasks), "shards")
    assert len(entries) == len(tasks), "an executor lost a shard"
    return tuple(sorted(entries, key=lambda entry: entry.name)), counts


def _held_out_text(store: Store, documents: Manifest) -> bytes:
    """The validation documents one after another, as they are encoded."""
    tables = [from_parquet(store.read(entry)) for entry in _of(documents, "validation-")]
    return "".join(text for table in tables for text in table["text"].to_pylist()).encode()


def _of(manifest: Manifest, prefix: str) -> list[BlobEntry]:
    return [entry for entry in manifest.blobs if entry.name.startswith(prefix)]


def _check_pin(recipe: Recipe, store: Store, tokenizer: Manifest | None) -> None:
    if tokenizer and recipe.tokenizer.fingerprint:
        found = Tokenizer.from_bytes(store.read(tokenizer.blob("tokenizer.json")))
        found.require(recipe.tokenizer.fingerprint, f"the recipe {recipe.name!r}")


def _require_documents(plan: Plan, tasks: Sequence[FileTask]) -> None:
    if plan.n_kept:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in plan.reasons.items())
    names = ", ".join(repr(task.file.name) for task in tasks[:3])
    raise DataError(
        f"no document is left of {len(tasks)} files ({names}): {reasons}",
        hint="give readable UTF-8 text, or loosen the rules under `clean`",
        rejects=plan.reasons,
    )


def _describe_documents(manifest: Manifest) -> str:
    counts = manifest.counts
    n_rejected = sum(n for name, n in counts.items() if name.startswith(_REJECTED))
    size_bytes = counts["train_bytes"] + counts["validation_bytes"]
    return (
        f"{counts['documents']} documents from {counts['files']} files,"
        f" {size_bytes / 1e6:.1f} MB, {n_rejected} rejected"
    )


def _describe_dataset(manifest: Manifest) -> str:
    counts = manifest.counts
    return (
        f"{counts['train_tokens']:,} tokens to train on, {counts['validation_tokens']:,} held out"
    )
