"""Fine-tune a model: `python -m jobs.fine_tune --config FILE`, run as a Ray job.

Builds a dataset of uploaded conversations and trains on it, as one run. Invariant: killed at
whatever moment, the same run goes on: what was built is found, training goes on from its
checkpoint.
"""

from __future__ import annotations

from jobs.starting import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()  # what is imported from here on takes seconds

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobs.entry import JobContext, run_job
from jobs.prepare import prepare
from mulm.data.executor import Executor
from mulm.data.recipe import Recipe
from mulm.manifest import Manifest
from mulm.runs.identity import fine_tune_identity
from mulm.train.config import TrainConfig
from mulm.train.fine_tune import (
    FineTuneConfig,
    first_guess,
    model_of,
    recipe_of,
    tokenizer_of,
    with_epochs,
    with_rates,
)
from mulm.train.settled import SettledConfig
from mulm.train.settling import settle

Train = Callable[[JobContext, TrainConfig], dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from jobs.train import run_training

    def work(context: JobContext, config: FineTuneConfig) -> dict[str, Any]:
        return fine_tune(context, config, run_training)

    arguments = sys.argv[1:] if argv is None else argv
    return run_job("fine_tune", arguments, FineTuneConfig, work, fine_tune_identity)


def fine_tune(
    context: JobContext, config: FineTuneConfig, train: Train, executor: Executor | None = None
) -> dict[str, Any]:
    """Build, train, and say what was made.

    Args:
        context: The run.
        config: What to tune, with what.
        train: Trains, on a cluster or here.
        executor: Who builds; chosen by the size of the files if absent.
    """
    model = model_of(config, context.store, context.facts)
    tokenizer = tokenizer_of(model, context.store, context.facts)
    window = int(json.loads(context.store.read(model.blob("config.json")))["max_seq_len"])
    recipe = recipe_of(config, model, tokenizer, window)
    built = prepare(context, recipe, executor)
    training, settled = training_of(context, config, model, built, recipe)
    made = train(context, training)
    return {
        "dataset": built["dataset"],
        "dataset_id": built["dataset_id"],
        **made,
        "trained_tokens": settled.steps * settled.batch_tokens,
    }


def training_of(
    context: JobContext,
    config: FineTuneConfig,
    model: Manifest,
    built: Mapping[str, Any],
    recipe: Recipe,
) -> tuple[TrainConfig, SettledConfig]:
    """The training on what was built, and the same with all values in it."""
    dataset, models = context.store.load(built["dataset_id"]), {"init_from": model}
    assert recipe.pack.seq_len is not None, "rows are filled to a length"

    def settled(guess: TrainConfig) -> SettledConfig:
        return settle(guess, context.store, dataset, models).config

    guess = first_guess(config, built["dataset"], recipe.pack.seq_len)
    guess = with_epochs(config, guess, settled(guess), int(dataset.counts["train_tokens"]))
    guess = with_rates(config, guess, settled(guess))
    return guess, settled(guess)


if __name__ == "__main__":
    sys.exit(main())
