"""`python -m jobs.prepare`: text to a dataset version, on Ray Data or in this process.

Run by `ray job submit` and by `mulm data build`. Invariant: the result is that of
`mulm.data.build` in process, bit for bit, whoever does the work.
"""

from __future__ import annotations

from jobs.starting import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()  # what is imported from here on takes seconds

import sys
from collections.abc import Sequence
from typing import Any

from actors.cpus import usable_cpus
from jobs.entry import JobContext, run_job
from mulm.data.build import Build, build
from mulm.data.executor import Executor, InProcess
from mulm.data.recipe import Recipe
from mulm.data.sources.listing import Listing, list_files
from mulm.errors import NotFoundError
from mulm.facts import Facts
from mulm.manifest import Manifest
from mulm.records import Version
from mulm.refs import parse_ref
from mulm.runs.identity import prepare_identity
from mulm.store import Store

SMALL_BYTES = 64 << 20
"""A corpus below is built in one process: Ray Data would take longer to start."""


def main(argv: Sequence[str] | None = None) -> int:
    """Build what the recipe of `--config` describes; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_job("prepare", arguments, Recipe, prepare, prepare_identity)


def prepare(
    context: JobContext, recipe: Recipe, executor: Executor | None = None
) -> dict[str, Any]:
    """Build, publish, and say what was made.

    Args:
        context: The run.
        recipe: What to build.
        executor: Who does the work; chosen by the size of the corpus if absent.
    """
    given = _given_tokenizer(recipe, context.facts)
    listing = list_files(recipe, context.store)
    built = build(
        recipe,
        context.store,
        executor or _chosen(context, recipe, listing),
        tokenizer=context.store.load(given.manifest_id) if given else None,
        against=_against(recipe, context.facts, context.store),
        listing=listing,
        emit=context.emit,
    )
    publish = context.facts.publish
    vocabulary = given or publish("tokenizer", recipe.name, built.tokenizer.id)
    dataset = publish("dataset", recipe.name, built.dataset.id)
    return _result(built, dataset, vocabulary)


def in_this_process() -> InProcess:
    """An executor that keeps all cores of this process busy."""
    return InProcess(usable_cpus())


def _chosen(context: JobContext, recipe: Recipe, listing: Listing) -> Executor:
    is_small = listing.size_bytes < SMALL_BYTES
    on_ray = recipe.runs_on == "ray" or (recipe.runs_on == "auto" and not is_small)
    why = f"{listing.size_bytes / 1e6:.1f} MB, runs_on: {recipe.runs_on}"
    context.emit("log", text=f"{'on Ray Data' if on_ray else 'in one process'} ({why})")
    if not on_ray:
        return in_this_process()
    from jobs.ray_data import RayData

    return RayData()


def _given_tokenizer(recipe: Recipe, facts: Facts) -> Version | None:
    ref = recipe.tokenizer.ref
    return facts.resolve("tokenizer", parse_ref(ref)) if ref else None


def _against(recipe: Recipe, facts: Facts, store: Store) -> dict[str, Manifest]:
    """The documents of the versions that count as seen before."""
    datasets = {
        ref: store.load(facts.resolve("dataset", parse_ref(ref)).manifest_id)
        for ref in recipe.dedup.against
    }
    return {ref: store.load(_documents_of(ref, dataset)) for ref, dataset in datasets.items()}


def _documents_of(ref: str, dataset: Manifest) -> str:
    if "documents" not in dataset.parents:
        raise NotFoundError(
            f"the documents of {ref} are not known",
            hint="only what `mulm data build` made can be compared with: leave it out of"
            " dedup.against",
        )
    return dataset.parents["documents"]


def _result(built: Build, dataset: Version, tokenizer: Version) -> dict[str, Any]:
    counts = built.dataset.counts
    names = ("train_tokens", "validation_tokens", "train_bytes", "validation_bytes")
    return {
        "dataset": dataset.ref,
        "dataset_id": built.dataset.id,
        "tokenizer": tokenizer.ref,
        "tokenizer_id": built.tokenizer.id,
        "documents": built.documents.counts["documents"],
        "documents_id": built.documents.id,
        **{name: counts[name] for name in names},
        "vocab_size": counts["vocab_size"],
        "rejects": built.rejects,
    }


if __name__ == "__main__":
    sys.exit(main())
