"""A training config with every value in it: the form that the loop and its parts work with.

Made by `mulm.train.settling` from what a person wrote. Invariant: checkpoints and stored models
name these values, so they say what was done, also where the rules change later. Needs no torch.
"""

from __future__ import annotations

from mulm.train.config import TrainConfig
from mulm.train.optimizer_config import OptimizerConfig, ScheduleConfig


class SettledOptimizer(OptimizerConfig):
    """With numbers where `auto` may stand."""

    matrix_lr: float
    embedding_lr: float
    weight_decay: float

    @property
    def lr(self) -> float:
        """The rate of the matrices inside blocks, which stands for the run."""
        return self.matrix_lr if self.kind == "muon" else self.embedding_lr


class SettledSchedule(ScheduleConfig):
    """With a number where `auto` may stand."""

    warmup: float


class SettledConfig(TrainConfig):
    """With numbers where `auto` may stand."""

    steps: int
    batch_tokens: int
    seq_len: int
    optimizer: SettledOptimizer
    schedule: SettledSchedule
