"""Learn a tokenizer alone: `python -m jobs.train_tokenizer --config FILE`, run as a Ray job.

Of the documents that the build of a dataset has cleaned. Invariant: it is the tokenizer that a
build of those documents with these settings would make, bit for bit.
"""

from __future__ import annotations

from jobs.starting import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()  # what is imported from here on takes seconds

import sys
from collections.abc import Sequence
from typing import Any

from jobs.entry import JobContext, run_job
from mulm.data.build import CODE_VERSION
from mulm.data.learn_tokenizer import learn_tokenizer
from mulm.data.steps import Steps
from mulm.data.tokenizer_config import TokenizerConfig
from mulm.errors import NotFoundError
from mulm.refs import parse_ref
from mulm.runs.identity import tokenizer_identity


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_job("train_tokenizer", arguments, TokenizerConfig, learn, tokenizer_identity)


def learn(context: JobContext, config: TokenizerConfig) -> dict[str, Any]:
    """Learn, store and publish a tokenizer; returns the run's result.

    Raises:
        NotFoundError: there is no such dataset, or its documents are not known.
        DataError: its documents are too few for so many ids.
    """
    version = context.facts.resolve("dataset", parse_ref(config.dataset))
    parents = context.store.load(version.manifest_id).parents
    if "documents" not in parents:
        raise NotFoundError(
            f"the documents of {version.ref} are not known",
            hint="name a dataset that `mulm data build` made",
            param="dataset",
        )
    steps = Steps(context.store, context.emit, CODE_VERSION)
    documents = context.store.load(parents["documents"])
    made = learn_tokenizer(steps, documents, config.vocab_size, config.chat_fraction)
    published = context.facts.publish("tokenizer", config.name, made.id)
    return {
        "tokenizer": published.ref,
        "tokenizer_id": made.id,
        "dataset": version.ref,
        "vocab_size": made.counts["vocab_size"],
        "fingerprint": made.tokenizer_fingerprint,
    }


if __name__ == "__main__":
    sys.exit(main())
