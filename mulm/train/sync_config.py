"""How the workers of a run agree: the part of a training config that says so. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mulm.config import Frozen
from mulm.train.optimizer_config import Auto

SyncKind = Literal["auto", "ddp", "ddp_lowrank", "diloco"]


class LowRankConfig(Frozen):
    """Gradients of low rank; read where `sync` is `ddp_lowrank`."""

    rank: Annotated[int, Field(ge=1, le=512)] = 32
    """Columns that stand for a matrix: fewer are sent faster, and teach less."""


class DilocoConfig(Frozen):
    """Islands that talk now and then; read where `sync` is `diloco`, or `auto` chooses it."""

    round_s: Auto | Annotated[float, Field(gt=0, le=3600)] = "auto"
    """Time between two exchanges of the same weights; `auto` is 10 s, where `sync` is `auto` what
    the links allow."""
    wire: Literal["int8", "int4", "bf16", "fp32"] = "int8"
    """The form in which weights travel."""
    fragments: Annotated[int, Field(ge=1, le=64)] = 4
    """Parts of the weights that are exchanged in turn."""
    overlap: bool = True
    """Train on while weights travel; without it islands wait for each other."""
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A round closes when this part of the islands gave, and `grace_s` is over."""
    grace_s: Annotated[float, Field(ge=0, le=600)] = 2.0
    """How long the others are waited for."""
    outer: Literal["auto", "average", "nesterov"] = "auto"
    """How the shared weights follow the islands' mean; `auto` by the number of rounds ahead."""
    outer_lr: Annotated[float, Field(gt=0, le=2)] = 0.7
    """Of `nesterov`."""
    outer_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `nesterov`; 0.9 remembers some ten rounds."""
