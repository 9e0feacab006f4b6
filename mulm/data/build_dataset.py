"""The last stage of a build: documents to token shards.

Called by `mulm.data.build`. Each chunk is encoded by itself, wherever. Invariant: a chunk of the
same content and decisions gives the same shards, so that adding files leaves them untouched too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

from mulm.data.corpus import Chunk, Corpus
from mulm.data.decisions import TRAIN, VALIDATION
from mulm.data.encode import EncodeRules, EncodeTask, encode_chunk
from mulm.data.executor import Executor
from mulm.data.recipe import Recipe
from mulm.data.steps import Entries, Stage, Steps
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store


def build_dataset(
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
            code_version=steps.code_version,
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


def _encode(
    recipe: Recipe,
    steps: Steps,
    executor: Executor,
    chunks: Sequence[Chunk],
    tokenizer_json: bytes,
) -> list[Entries]:
    """What each chunk becomes; one of a content and decisions that are known is not encoded."""
    row_len = None if recipe.pack.seq_len is None else recipe.pack.seq_len + 1
    rules = EncodeRules(recipe.chat_fraction, row_len)
    shared = {
        "tokenizer": sha256(tokenizer_json).hexdigest(),
        "chat_fraction": rules.chat_fraction,
        "row_len": rules.row_len,
    }
    tasks = [_encode_task(steps.store, chunk) for chunk in chunks]
    stage = Stage(
        "dataset",
        partial(encode_chunk, tokenizer_json, rules),
        tasks,
        [
            shared
            | {
                "chunk": chunk.entry.content_sha256,
                "train": sha256(task.is_train.tobytes()).hexdigest(),
                "validation": sha256(task.is_validation.tobytes()).hexdigest(),
            }
            for chunk, task in zip(chunks, tasks, strict=True)
        ],
        [chunk.entry.size_bytes for chunk in chunks],
    )
    return steps.each(stage, executor)


def _encode_task(store: Store, chunk: Chunk) -> EncodeTask:
    decided = chunk.decisions
    return EncodeTask(partial(store.read, chunk.entry), decided.are(TRAIN), decided.are(VALIDATION))


def _named_shards(
    recipe: Recipe, chunks: Sequence[Chunk], made: Sequence[Entries]
) -> Iterator[BlobEntry]:
    """`train-00007.bin`, or `train-books-00007.bin` where sources are mixed."""
    for number, (chunk, blobs) in enumerate(zip(chunks, made, strict=True)):
        for entry in blobs:
            side, _, suffix = entry.name.partition(".")
            if suffix in ("bin", "mask"):
                group = f"{chunk.source}-" if recipe.mixture and side == TRAIN else ""
                yield entry.model_copy(update={"name": f"{side}-{group}{number:05}.{suffix}"})


def _token_counts(store: Store, made: Sequence[Entries]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for blobs in made:
        for name, n in json.loads(store.read(_named(blobs, "counts.json"))).items():
            counts[name] = counts.get(name, 0) + n
    return counts


def _held_out_text(store: Store, made: Sequence[Entries]) -> Iterator[bytes]:
    for blobs in made:
        yield from (store.read(entry) for entry in blobs if entry.name == "validation.txt")


def _named(blobs: Entries, name: str) -> BlobEntry:
    return next(entry for entry in blobs if entry.name == name)


def _describe_dataset(manifest: Manifest) -> str:
    counts = manifest.counts
    return (
        f"{counts['train_tokens']:,} tokens to train on, {counts['validation_tokens']:,} held out"
    )
