"""Building a dataset version: sources to documents, to a tokenizer, to token shards.

Called by `jobs.prepare` with an executor on Ray Data, and by anyone in process. The executor
carries out the tasks of the stages; all decisions are made here. Invariants: the manifests are the
same bit for bit for every executor; what is known is not worked out again and writes nothing; a
manifest exists only when all of its blobs do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mulm
from mulm.data.build_dataset import build_dataset
from mulm.data.build_documents import build_documents, rejects_of
from mulm.data.executor import Executor, InProcess
from mulm.data.learn_tokenizer import learn_tokenizer
from mulm.data.recipe import Recipe
from mulm.data.sources.listing import Listing, list_files
from mulm.data.steps import Emit, Steps, silent
from mulm.data.tokenizer import Tokenizer
from mulm.manifest import Manifest
from mulm.store import Store

DATA_VERSION = 2
"""Counts the changes of the pure stages that change their results."""
CODE_VERSION = f"{mulm.__version__}+data.{DATA_VERSION}"


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
    listing = listing or list_files(recipe, store)
    documents = build_documents(recipe, steps, executor, listing, known)
    tokenizer = tokenizer or _tokenizer(recipe, steps, documents)
    _check_pin(recipe, store, tokenizer)
    dataset = build_dataset(recipe, steps, executor, documents, tokenizer)
    return Build(documents, tokenizer, dataset)


def _tokenizer(recipe: Recipe, steps: Steps, documents: Manifest) -> Manifest:
    return learn_tokenizer(steps, documents, recipe.tokenizer.vocab_size, recipe.chat_fraction)


def _check_pin(recipe: Recipe, store: Store, tokenizer: Manifest | None) -> None:
    if tokenizer and recipe.tokenizer.fingerprint:
        found = Tokenizer.from_bytes(store.read(tokenizer.blob("tokenizer.json")))
        found.require(recipe.tokenizer.fingerprint, f"the recipe {recipe.name!r}")
