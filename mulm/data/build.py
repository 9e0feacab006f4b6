"""Building a dataset version: sources to documents, to a tokenizer, to token shards.

Called by `jobs.prepare` with an executor on Ray Data, and by anyone in process. The executor
carries out the tasks of the stages; all decisions are made here. Invariants: the manifests are the
same bit for bit for every executor; what is known is not worked out again and writes nothing; a
manifest exists only when all of its blobs do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import mulm
from mulm.data.chunk import ReadRules, read_chunks
from mulm.data.contamination import evaluation_texts, ngram_hashes
from mulm.data.corpus import CHUNK_PREFIX, DECISIONS, Chunk, Corpus
from mulm.data.decisions import INDEX_COLUMNS, TRAIN, VALIDATION, Decisions, Index, decide
from mulm.data.documents import from_parquet
from mulm.data.encode import EncodeRules, EncodeTask, encode_chunk, training_texts
from mulm.data.executor import Executor, InProcess
from mulm.data.recipe import Recipe
from mulm.data.repetitions import find_repetitions
from mulm.data.sources.listing import Listing, licences, list_files, read_tasks
from mulm.data.steps import Blobs, Emit, Stage, Steps, silent
from mulm.data.tasks import ReadTask
from mulm.data.tokenizer import Tokenizer, train_tokenizer
from mulm.errors import DataError
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store

DATA_VERSION = 2
"""Counts the changes of the pure stages that change their results."""
CODE_VERSION = f"{mulm.__version__}+data.{DATA_VERSION}"
TOKENIZER_SAMPLE_BYTES = 64 << 20
"""A tokenizer learns from about this much text at most, chosen by hash."""
_REJECTED = "rejected_"
_NEEDED_SPACE = 3
"""What a build writes at most for each byte that it reads."""


@dataclass(frozen=True, slots=True)
class Build:
    """The three versions that a build makes, each the parent of the next."""

    documents: Manifest
    tokenizer: Manifest
    dataset: Manifest

    @property
    def rejects(self) -> dict[str, int]:
        """Number of rejected documents by reason."""
        return rejects_of(self.documents)


def rejects_of(documents: Manifest) -> dict[str, int]:
    """Number of rejected documents of a version by reason."""
    return {
        name.removeprefix(_REJECTED): int(count)
        for name, count in documents.counts.items()
        if name.startswith(_REJECTED)
    }


def build(
    recipe: Recipe,
    store: Store,
    executor: Executor | None = None,
    *,
    tokenizer: Manifest | None = None,
    against: Mapping[str, Manifest] | None = None,
    listing: Listing | None = None,
    emit: Emit = silent,
) -> Build:
    """Build, or find again, the dataset that a recipe describes.

    Args:
        recipe: What to build.
        store: Where shards and manifests go.
        executor: Who does the work; this thread if absent.
        tokenizer: The version that `recipe.tokenizer.ref` names, if it names one.
        against: The documents of the versions that `recipe.dedup.against` names.
        listing: The files of the sources, if they have been listed already.
        emit: Told of progress and finished stages.

    Raises:
        NotFoundError: a source has no files.
        UnknownNameError: a source is of an unknown type.
        SchemaError: a file does not have the columns that the recipe asks for.
        DataError: no document is usable, or too few for a split or for the vocabulary.
        TokenizerMismatchError: the tokenizer is not the one that the recipe pins.
        NoSpaceError: the disk is full.
    """
    assert (tokenizer is None) == (recipe.tokenizer.ref is None), "the caller resolves the ref"
    known = dict(against or {})
    assert set(known) == set(recipe.dedup.against), "the caller resolves the versions"
    steps, executor = Steps(store, emit, CODE_VERSION), executor or InProcess()
    _check_pin(recipe, store, tokenizer)
    listing = listing or list_files(recipe, store.downloads)
    documents = _documents(recipe, steps, executor, listing, known)
    tokenizer = tokenizer or _tokenizer(recipe, steps, documents)
    _check_pin(recipe, store, tokenizer)
    return Build(documents, tokenizer, _dataset(recipe, steps, executor, documents, tokenizer))


def _documents(
    recipe: Recipe,
    steps: Steps,
    executor: Executor,
    listing: Listing,
    known: Mapping[str, Manifest],
) -> Manifest:
    """Read, cut, clean, deduplicate, split: a version of kind "documents"."""
    rules = _read_rules(recipe)
    config = {
        "sources": _sources(recipe),
        "files": listing.identities,
        **_identity(rules),
        "against": {ref: manifest.id for ref, manifest in known.items()},
        "split": recipe.split.model_dump(mode="json"),
    }

    def make() -> Manifest:
        steps.store.require_space(_NEEDED_SPACE * listing.size_bytes)
        tasks = read_tasks(recipe, listing)
        blobs = _named_chunks(recipe, tasks, _read(tasks, rules, steps, executor))
        corpora = [Corpus.of(steps.store, manifest) for manifest in known.values()]
        decisions, index = _decide(recipe, steps, blobs, corpora)
        _require_documents(decisions, listing)
        own = steps.store.put(DECISIONS, decisions.to_bytes(), len(decisions.codes))
        return Manifest(
            kind="documents",
            code_version=CODE_VERSION,
            config=config,
            licences=licences(recipe),
            counts=_document_counts(decisions, index, listing),
            blobs=(*blobs, own),
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
        part = TOKENIZER_SAMPLE_BYTES / max(1, documents.counts["train_bytes"])
        texts = training_texts(_chunk_files(steps.store, documents), recipe.chat_fraction, part)
        learned = train_tokenizer(texts, vocab_size)
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
    config: dict[str, Any] = {
        "chat_fraction": recipe.chat_fraction,
        "pack": recipe.pack.model_dump(mode="json"),
        "mixture": recipe.mixture,
    }
    vocabulary = tokenizer.blob("tokenizer.json")

    def make() -> Manifest:
        chunks = Corpus.of(steps.store, documents).chunks
        made = _encode(recipe, steps, executor, chunks, steps.store.read(vocabulary))
        counts = _token_counts(steps.store, made)
        return Manifest(
            kind="dataset",
            code_version=CODE_VERSION,
            config=config,
            parents=parents,
            tokenizer_fingerprint=tokenizer.tokenizer_fingerprint,
            licences=documents.licences,
            counts=counts | {"vocab_size": tokenizer.counts["vocab_size"]},
            blobs=(
                *_named_shards(recipe, chunks, made),
                steps.store.put_stream("validation.txt", _held_out_text(steps.store, made)),
                vocabulary,
            ),
        )

    return steps.run("dataset", config | parents, make, _describe_dataset)


def _read_rules(recipe: Recipe) -> ReadRules:
    rules = ReadRules(
        clean=recipe.clean,
        near=recipe.dedup.near,
        whole_files=recipe.split.by == "file",
    )
    if recipe.decontaminate is None:
        return rules
    ngram = recipe.decontaminate.ngram
    texts = [text for path in recipe.decontaminate.paths for text in evaluation_texts(path)]
    return ReadRules(
        rules.clean, rules.near, rules.whole_files, ngram_hashes(texts, ngram), ngram
    )


def _identity(rules: ReadRules) -> dict[str, Any]:
    """The rules as plain values that hash the same everywhere."""
    hashes = rules.contamination
    return {
        "clean": rules.clean.model_dump(mode="json"),
        "near": rules.near.model_dump(mode="json") if rules.near else None,
        "whole_files": rules.whole_files,
        "contamination": None if hashes is None else sha256(hashes.tobytes()).hexdigest(),
        "contamination_ngram": rules.contamination_ngram,
    }


def _sources(recipe: Recipe) -> list[dict[str, Any]]:
    """What of the sources' settings decides: where the files lie does not."""
    kept = ("type", "licence", "columns", "sections")
    return [
        {"label": label, **spec.model_dump(mode="json", include=set(kept))}
        for label, spec in zip(recipe.labels, recipe.sources, strict=True)
    ]


def _read(
    tasks: Sequence[ReadTask], rules: ReadRules, steps: Steps, executor: Executor
) -> list[Blobs]:
    stage = Stage(
        "documents",
        partial(read_chunks, rules),
        tasks,
        [task.identity | {"rules": _identity(rules)} for task in tasks],
        [task.size_bytes for task in tasks],
    )
    return steps.each(stage, executor)


def _named_chunks(recipe: Recipe, tasks: Sequence[ReadTask], made: Sequence[Blobs]) -> Blobs:
    """All chunks in order, numbered, each with the label of its source."""
    labels = [recipe.labels[task.source] for task, blobs in zip(tasks, made, strict=True) for _ in blobs]
    entries = [entry for blobs in made for entry in blobs]
    return tuple(
        entry.model_copy(update={"name": f"{CHUNK_PREFIX}{label}-{number:05}.parquet"})
        for number, (label, entry) in enumerate(zip(labels, entries, strict=True))
    )


def _decide(
    recipe: Recipe, steps: Steps, blobs: Blobs, against: Sequence[Corpus]
) -> tuple[Decisions, Index]:
    tables = [from_parquet(steps.store.read(entry), INDEX_COLUMNS) for entry in blobs]
    index = Index.of(tables)
    undecided = Corpus.undecided(steps.store, blobs)
    found = find_repetitions(index, undecided, recipe.dedup, against)
    decisions = decide(index, recipe.split, found.original, found.is_near, found.is_known)
    return decisions, index


def _document_counts(decisions: Decisions, index: Index, listing: Listing) -> dict[str, int]:
    sides = {side: decisions.are(side) for side in (TRAIN, VALIDATION)}
    rejected = {
        f"{_REJECTED}{name}": n for name, n in decisions.counts().items() if name not in sides
    }
    return {
        "files": len(listing.files),
        "documents": sum(int(flags.sum()) for flags in sides.values()),
        **{f"{side}_bytes": int(index.size_bytes[flags].sum()) for side, flags in sides.items()},
        **rejected,
    }


def _chunk_files(
    store: Store, documents: Manifest
) -> Iterator[tuple[bytes, Any, tuple[str, ...]]]:
    for chunk in Corpus.of(store, documents).chunks:
        yield store.read(chunk.entry), chunk.codes, chunk.names


def _encode(
    recipe: Recipe,
    steps: Steps,
    executor: Executor,
    chunks: Sequence[Chunk],
    tokenizer_json: bytes,
) -> list[Blobs]:
    """What each chunk becomes; those of one content and one decision are worked on once."""
    row_len = None if recipe.pack.seq_len is None else recipe.pack.seq_len + 1
    rules = EncodeRules(recipe.chat_fraction, row_len)
    shared = {
        "tokenizer": sha256(tokenizer_json).hexdigest(),
        "chat_fraction": rules.chat_fraction,
        "row_len": rules.row_len,
    }
    stage = Stage(
        "dataset",
        partial(encode_chunk, tokenizer_json, rules),
        [EncodeTask(partial(steps.store.read, c.entry), c.codes, c.names) for c in chunks],
        [
            shared
            | {
                "chunk": chunk.entry.content_sha256,
                "train": sha256(chunk.are(TRAIN).tobytes()).hexdigest(),
                "validation": sha256(chunk.are(VALIDATION).tobytes()).hexdigest(),
            }
            for chunk in chunks
        ],
        [chunk.entry.size_bytes for chunk in chunks],
    )
    return steps.each(stage, executor)


def _named_shards(
    recipe: Recipe, chunks: Sequence[Chunk], made: Sequence[Blobs]
) -> Iterator[BlobEntry]:
    """`train-00007.bin`, or `train-books-00007.bin` where sources are mixed."""
    for number, (chunk, blobs) in enumerate(zip(chunks, made, strict=True)):
        for entry in blobs:
            side, _, suffix = entry.name.partition(".")
            if suffix in ("bin", "mask"):
                group = f"{chunk.source}-" if recipe.mixture and side == TRAIN else ""
                yield entry.model_copy(update={"name": f"{side}-{group}{number:05}.{suffix}"})


def _token_counts(store: Store, made: Sequence[Blobs]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for blobs in made:
        for name, n in json.loads(store.read(_named(blobs, "counts.json"))).items():
            counts[name] = counts.get(name, 0) + n
    return counts


def _held_out_text(store: Store, made: Sequence[Blobs]) -> Iterator[bytes]:
    for blobs in made:
        yield from (store.read(entry) for entry in blobs if entry.name == "validation.txt")


def _named(blobs: Blobs, name: str) -> BlobEntry:
    return next(entry for entry in blobs if entry.name == name)


def _check_pin(recipe: Recipe, store: Store, tokenizer: Manifest | None) -> None:
    if tokenizer and recipe.tokenizer.fingerprint:
        found = Tokenizer.from_bytes(store.read(tokenizer.blob("tokenizer.json")))
        found.require(recipe.tokenizer.fingerprint, f"the recipe {recipe.name!r}")


def _require_documents(decisions: Decisions, listing: Listing) -> None:
    counts = decisions.counts()
    if TRAIN in counts or VALIDATION in counts:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    names = ", ".join(repr(listed.file.name) for listed in listing.files[:3])
    raise DataError(
        f"no document is left of {len(listing.files)} files ({names}): {reasons}",
        hint="give readable UTF-8 text, or loosen the rules under `clean`",
        rejects=counts,
    )


def _describe_documents(manifest: Manifest) -> str:
    counts = manifest.counts
    size_bytes = counts["train_bytes"] + counts["validation_bytes"]
    return (
        f"{counts['documents']} documents from {counts['files']} files,"
        f" {size_bytes / 1e6:.1f} MB, {sum(rejects_of(manifest).values())} rejected"
    )


def _describe_dataset(manifest: Manifest) -> str:
    counts = manifest.counts
    return (
        f"{counts['train_tokens']:,} tokens to train on, {counts['validation_tokens']:,} held out"
    )
