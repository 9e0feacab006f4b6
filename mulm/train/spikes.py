"""Which steps are passed over: those with numbers that are not finite, or far out of line.

Asked by the training loop once per step. Invariant: an answer depends on sums over the global
batch alone, and all that is remembered lies in a checkpoint, so that every worker passes over the
same steps, and so does a resumed run.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from mulm.errors import TrainingDivergedError

MAX_SKIPPED_IN_ROW = 5
FIRST_STEPS = 32
"""Losses that are seen before one can be out of line."""
HORIZON_STEPS = 100
"""Over about so many steps mean and spread are taken."""
SPIKE_SIGMAS, SPIKE_NATS = 8.0, 0.25
"""A spike is farther above the mean than both."""


@dataclass(slots=True)
class LossWatch:
    """Running mean and variance of the loss, and how many steps were passed over."""

    n_seen: int = 0
    mean: float = 0.0
    variance: float = 0.0
    n_skipped: int = 0
    n_skipped_in_row: int = 0

    def is_spike(self, loss: float) -> bool:
        """Whether a finite loss stands far above those before it."""
        if self.n_seen < FIRST_STEPS:
            return False
        return loss - self.mean > max(SPIKE_SIGMAS * math.sqrt(self.variance), SPIKE_NATS)

    def why_skip(self, loss: float, *, skips_spikes: bool) -> str:
        """What is wrong with a step of that loss, if anything."""
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        if skips_spikes and self.is_spike(loss):
            return f"its loss {loss:.3f} is far above the {self.mean:.3f} before it"
        return ""

    def taken(self, loss: float) -> None:
        """A step moved the weights."""
        share = 1 / min(self.n_seen + 1, HORIZON_STEPS)
        distance = loss - self.mean
        self.mean += share * distance
        self.variance = (1 - share) * (self.variance + share * distance**2)
        self.n_seen += 1
        self.n_skipped_in_row = 0

    def skipped(self, step: int, reason: str, *, is_bad: bool) -> None:
        """A step was passed over; one that was not bad ends no run.

        Raises:
            TrainingDivergedError: too many were, in a row.
        """
        self.n_skipped += 1
        self.n_skipped_in_row += is_bad
        if self.n_skipped_in_row >= MAX_SKIPPED_IN_ROW:
            raise TrainingDivergedError(
                f"{MAX_SKIPPED_IN_ROW} steps in a row were skipped, until step {step}: {reason}",
                hint="lower optimizer.matrix_lr and optimizer.embedding_lr, or use precision fp32",
            )

    def facts(self) -> dict[str, float]:
        """For a checkpoint; `LossWatch(**facts)` is the same again."""
        return asdict(self)
