"""The first stage of a build: files to documents, each kept or dropped for a reason.

Called by `mulm.data.build`. Files are read in tasks, wherever; then the driver looks at all
documents at once and decides. Invariant: adding files leaves the chunks of the others untouched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np

from mulm.data.chunk import ReadRules, read_chunks
from mulm.data.clean import normalise, packages
from mulm.data.contamination import evaluation_texts, ngram_hashes
from mulm.data.corpus import CHUNK_PREFIX, DECISIONS, Corpus
from mulm.data.decisions import (
    INDEX_COLUMNS,
    TRAIN,
    VALIDATION,
    Decisions,
    Flags,
    Index,
    decide,
)
from mulm.data.documents import from_parquet
from mulm.data.executor import Executor
from mulm.data.recipe import Recipe
from mulm.data.repetitions import find_repetitions
from mulm.data.sources.listing import Listing, licences, read_tasks
from mulm.data.sources.registry import code_of
from mulm.data.steps import Entries, Stage, Steps
from mulm.data.tasks import ReadTask
from mulm.errors import DataError
from mulm.manifest import Manifest

_REJECTED = "rejected_"
_SPACE_PER_BYTE = 3
"""What a build writes at most for each byte that it reads."""


def build_documents(
    recipe: Recipe,
    steps: Steps,
    executor: Executor,
    listing: Listing,
    known: Mapping[str, Manifest],
) -> Manifest:
    """Read, cut, clean, deduplicate, split: a version of kind "documents".

    Args:
        recipe: What to build.
        steps: Where results are remembered.
        executor: Who reads.
        listing: The files of the sources.
        known: The documents of the versions that count as seen before, by reference.

    Raises:
        SchemaError: a file does not have the columns that the recipe asks for.
        DataError: no document is usable, or too few for a split.
    """
    rules = _read_rules(recipe)
    config = _config(recipe, rules, listing, known)

    def make() -> Manifest:
        blobs = _chunks(recipe, listing, rules, steps, executor)
        corpora = [Corpus.of(steps.store, known[ref]) for ref in recipe.dedup.against]
        decisions, index = _decide(recipe, steps, blobs, corpora)
        _require_documents(decisions, listing)
        own = steps.store.put(DECISIONS, decisions.to_bytes(), len(decisions.codes))
        return Manifest(
            kind="documents",
            code_version=steps.code_version,
            config=config,
            licences=licences(recipe),
            counts=_document_counts(decisions, index, listing),
            blobs=(*blobs, own),
        )

    return steps.run("documents", config, make, _describe_documents)


def foreign_code(recipe: Recipe) -> dict[str, str]:
    """What decides beside our own code: packages by version, classes of sources by checksum."""
    types = {spec.type for spec in recipe.sources}
    classes = {name: code for name in sorted(types) if (code := code_of(name))}
    return packages(recipe.clean) | classes


def rejects_of(documents: Manifest) -> dict[str, int]:
    """Number of rejected documents of a version by reason."""
    return {
        name.removeprefix(_REJECTED): int(count)
        for name, count in documents.counts.items()
        if name.startswith(_REJECTED)
    }


def _config(
    recipe: Recipe, rules: ReadRules, listing: Listing, known: Mapping[str, Manifest]
) -> dict[str, Any]:
    """All that the documents depend on."""
    return {
        "sources": _sources(recipe),
        "files": listing.identities,
        **_identity(rules),
        "against": [known[ref].id for ref in recipe.dedup.against],  # names are one machine's own
        "foreign_code": foreign_code(recipe),
        "split": recipe.split.model_dump(mode="json"),
    }


def _read_rules(recipe: Recipe) -> ReadRules:
    rules = ReadRules(
        clean=recipe.clean,
        near=recipe.dedup.near,
        whole_files=recipe.split.by == "file",
    )
    if recipe.decontaminate is None:
        return rules
    ngram = recipe.decontaminate.ngram
    texts = (normalise(t) for path in recipe.decontaminate.paths for t in evaluation_texts(path))
    return replace(rules, contamination=ngram_hashes(texts, ngram), contamination_ngram=ngram)


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
    kept = ("type", "licence", "columns", "sections", "held_out")
    return [
        {"label": label, **spec.model_dump(mode="json", include=set(kept))}
        for label, spec in zip(recipe.labels, recipe.sources, strict=True)
    ]


def _chunks(
    recipe: Recipe, listing: Listing, rules: ReadRules, steps: Steps, executor: Executor
) -> Entries:
    """All files read, wherever: chunks in order, each with the label of its source."""
    tasks = read_tasks(recipe, listing)
    return _named_chunks(recipe, tasks, _read(tasks, rules, foreign_code(recipe), steps, executor))


def _read(
    tasks: Sequence[ReadTask], rules: ReadRules, code: Mapping[str, str], steps: Steps,
    executor: Executor,
) -> list[Entries]:  # fmt: skip
    def identity(task: ReadTask) -> dict[str, Any]:
        own = {name: at for name, at in code.items() if ":" not in name or name == task.spec.type}
        return task.identity | {"rules": _identity(rules), "foreign_code": own}

    stage = Stage(
        "documents",
        partial(read_chunks, rules),
        tasks,
        [identity(task) for task in tasks],
        [task.size_bytes for task in tasks],
        space_per_byte=_SPACE_PER_BYTE,
        reads_files=True,
    )
    return steps.each(stage, executor)


def _named_chunks(recipe: Recipe, tasks: Sequence[ReadTask], made: Sequence[Entries]) -> Entries:
    """All chunks in order, numbered, each with the label of its source."""
    labels = [
        recipe.labels[task.source] for task, blobs in zip(tasks, made, strict=True) for _ in blobs
    ]
    entries = [entry for blobs in made for entry in blobs]
    return tuple(
        entry.model_copy(update={"name": f"{CHUNK_PREFIX}{label}-{number:05}.parquet"})
        for number, (label, entry) in enumerate(zip(labels, entries, strict=True))
    )


def _decide(
    recipe: Recipe, steps: Steps, blobs: Entries, against: Sequence[Corpus]
) -> tuple[Decisions, Index]:
    tables = [from_parquet(steps.store.read(entry), INDEX_COLUMNS) for entry in blobs]
    index = Index.of(tables)
    undecided = Corpus.undecided(steps.store, blobs)
    found = find_repetitions(index, undecided, recipe.dedup, against)
    decisions = decide(
        index, recipe.split, found.original, found.is_near, found.is_known,
        _held_out(recipe, undecided),
    )  # fmt: skip
    return decisions, index


def _held_out(recipe: Recipe, documents: Corpus) -> Flags | None:
    """Which documents are of sources that are held out; nothing where none is."""
    labels = {
        label for label, spec in zip(recipe.labels, recipe.sources, strict=True) if spec.held_out
    }
    if not labels:
        return None
    parts = [np.full(c.entry.rows, c.source in labels, np.bool_) for c in documents.chunks]
    return np.concatenate(parts)


def _document_counts(
    decisions: Decisions, index: Index, listing: Listing
) -> dict[str, int | float]:
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


def _require_documents(decisions: Decisions, listing: Listing) -> None:
    counts = decisions.counts()
    sides = [side for side in (TRAIN, VALIDATION) if side not in counts]
    if not sides:
        return
    what = "document" if len(sides) > 1 else f"{sides[0]} document"
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
    names = ", ".join(repr(listed.file.name) for listed in listing.files[:3])
    raise DataError(
        f"no {what} is left of {len(listing.files)} files ({names}): {reasons}",
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
