"""The configuration of the optimizer and of its schedule.

Part of a training config (`mulm.train.config`). Needs no torch. What can be computed is `auto`
unless it is set.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from mulm.config import Frozen
from mulm.train.limits import LearningRate, Norm, Share

Auto = Literal["auto"]
"""Left to `mulm.train.dial`, which sets it by the size of the model and of the dataset."""

STATE_BLOCK = 256
"""Numbers of an 8-bit optimizer state that share one scale."""
_SMALLEST_CODED = 4096
StateDtype = Literal["fp32", "bf16", "int8"]


class OptimizerConfig(Frozen):
    """How weights follow gradients."""

    kind: Literal["muon", "adamw"] = "muon"
    """Muon for the matrices inside blocks and AdamW for the rest, or AdamW for all."""
    matrix_lr: Auto | LearningRate = "auto"
    """For Muon. With `adamw`, matrices use `embedding_lr`."""
    embedding_lr: Auto | LearningRate = "auto"
    weight_decay: Auto | Norm = "auto"
    """Of the matrices inside blocks only."""
    cautious_decay: bool = False
    """Only numbers decay that the update makes smaller as well."""
    max_grad_norm: Norm = 1.0
    """Of the mean gradient of the AdamW parameters, which Muon does not bound; 0 is off."""
    state_dtype: StateDtype = "fp32"
    """Of the averages that it keeps: 4, 2 or about 1 byte each."""

    @model_validator(mode="after")
    def _decay_keeps_signs(self) -> OptimizerConfig:
        rate = self.matrix_lr if self.kind == "muon" else self.embedding_lr
        if rate == "auto" or self.weight_decay == "auto":
            return self
        if rate * self.weight_decay >= 1:
            raise ValueError(
                f"weight_decay ({self.weight_decay}) times the rate ({rate}) is 1 or more:"
                " one step would take the weights through zero"
            )
        return self


class ScheduleConfig(Frozen):
    """Warm-up, stable, decay (WSD), as shares of all steps."""

    warmup: Auto | Share = "auto"
    decay: Share = 0.75

    @model_validator(mode="after")
    def _fits(self) -> ScheduleConfig:
        if self.warmup != "auto" and self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup ({self.warmup}) and decay ({self.decay}) exceed the run: keep their sum"
                " at or below 1"
            )
        return self


def is_coded(n_numbers: int) -> bool:
    """Whether `int8` holds for a tensor of that size: small ones keep their state in fp32."""
    return n_numbers >= _SMALLEST_CODED
