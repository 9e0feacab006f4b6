"""The contract between the training loop and what is trained.

The loop knows steps, gradients, workers, checkpoints and stops; an objective knows the model, the
rows of a step, their loss and how progress is judged. Each worker makes its own, equal to all
others. Invariants that the loop's promises rest on:

- Everything is a pure function of what the objective was made from and of the arguments, so a
  resumed run is bit for bit the uninterrupted one. Random numbers, also those of dropout, come from
  generators seeded by step and row.
- The rows of a step do not depend on the number of workers.
- Losses are sums, not means: the loop adds them up over micro-batches and workers, and divides the
  gradients by the sum of the counts.

Fine-tuning on chats is pretraining on a dataset with loss masks: `IGNORED_TARGET` stands where the
user speaks, and the rest counts. Preference pairs (DPO) have rows that are pairs, a frozen
reference model in the objective, and count pairs; distillation has the teacher in the objective.
All name in `origin` the models that they begin with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from mulm.train.sync.base import Sync

Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class SummedLoss:
    """The loss of a micro-batch: a sum that can be differentiated, and what it is to be divided by.

    `count` is the number of targets, pairs or whatever the loss is a mean of; it may be zero.
    `also` has sums over the same for the report, such as of pairs that are right; the names are
    those of metrics, and always the same.
    """

    total: Tensor
    count: float
    also: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol[Model, Batch]):
    """What a run trains a model for.

    The model is the loop's: it is passed in, on the run's device, and is in training mode between
    two calls. `dtype` is that of matrix products; weights and losses are fp32.
    Parameters that it has frozen are not trained and stand in no checkpoint: `origin` says where
    they come from.
    """

    @property
    def judged_by(self) -> str:
        """The name of the number, among those of `validate`, that stands for the run."""

    @property
    def higher_is_better(self) -> bool:
        """Whether of two such numbers the higher is that of the better model."""

    @property
    def origin(self) -> Mapping[str, Any]:
        """What a checkpoint belongs to beside its config: ids and settings, JSON-compatible.

        A run goes on only from a checkpoint with the same. Names must not be those of other
        facts in a checkpoint's `state.json`.
        """

    @property
    def manner(self) -> str:
        """How it computes here, for the log: automatic choices with their reasons."""

    def build(self, generator: torch.Generator) -> Model:
        """The model at step 0, on the CPU; `generator` is seeded with the run's seed.

        Muon takes the matrices whose names begin with "blocks."; others are AdamW's.
        """

    def micro_batches(self, step: int, start: int, stop: int) -> Iterable[Batch]:
        """Rows [start, stop) of the global batch of `step` (from 0), on the run's device.

        In pieces that the device runs at once, at least one; the loop asks for the next before
        it runs one, to know which is the last.
        """

    def loss(self, model: Model, batch: Batch, dtype: torch.dtype) -> SummedLoss:
        """The loss of one micro-batch; every parameter that is not frozen has a part in it."""

    def shrink(self) -> int | None:
        """Run at most half as many rows at once from now on; None where one is the least.

        Called between two micro-batches that memory did not hold; those of the step come anew.

        Returns:
            The new number, a power of two.
        """

    def validate(self, model: Model, dtype: torch.dtype, sync: Sync) -> dict[str, float]:
        """Judge the model on what it was not trained on; every worker returns the same numbers.

        Workers share the work and add up with `sync`. Each number becomes a metric with
        "validation_" before its name. Weights and mode of the model are left as they are.

        Raises:
            TrainingDivergedError: a number is not finite.
        """

    def store(self, model: Model, counts: Mapping[str, int]) -> str:
        """Put the trained model into the store; returns its id. Called on worker 0 alone.

        `counts` says how many steps and tokens moved the weights.
        """
