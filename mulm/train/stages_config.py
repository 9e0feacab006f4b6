"""The configuration of the tuning stages: adapters, and learning from pairs.

Part of a training config (`mulm.train.config`). Needs no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from mulm.config import Frozen
from mulm.train.limits import Factor, Rank

Matrix = Literal["q", "k", "v", "out", "gate", "up", "down"]
"""The matrices of a block, as its layers call them."""


class LoraConfig(Frozen):
    """Low-rank adapters beside frozen matrices (Hu et al., 2021)."""

    rank: Rank = 16
    alpha: Factor = 32.0
    """What an adapter says counts alpha / rank times."""
    matrices: Annotated[tuple[Matrix, ...], Field(min_length=1)] = get_args(Matrix)

    @property
    def scale(self) -> float:
        """Of what an adapter says."""
        return self.alpha / self.rank


class PreferenceConfig(Frozen):
    """Learning from pairs of answers (DPO; Rafailov et al., 2023)."""

    beta: Factor = 0.1
    """How strongly the model is held to the one that it began with."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """How often a pair is thought to be the wrong way round."""
    length_normalised: bool = False
    """Compare log-probabilities per token of an answer, not of all of it."""
