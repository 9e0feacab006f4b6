"""Limits of a training config's numbers: nonsense is refused before anything starts.

Used by `mulm.train.config`. Needs no torch. Invariant: within the limits no name, sum or tensor of
a run overflows; what fits into a machine's memory is asked later, when the machine is known.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mulm.model.config import MicroLMConfig

MOST_PARAMETERS = 10_000_000_000
"""A µLM has about a billion at most."""
LONGEST_WINDOW = 1 << 20


def _is_digits(value: object) -> object:
    """YAML's `yes` is True, which Python takes for 1."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is no number: write digits")
    return value


def _is_auto_or_rows(value: object) -> object:
    is_number = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if value != "auto" and not is_number:
        raise ValueError("write auto, or a whole number of rows from 1 on")
    return value


_NUMBER = BeforeValidator(_is_digits)

Count = Annotated[int, _NUMBER, Field(ge=1, le=1_000_000_000)]
Steps = Annotated[int, _NUMBER, Field(ge=1, le=99_999_999)]
"""The name of a checkpoint has eight digits, and names are sorted."""
BatchTokens = Annotated[int, _NUMBER, Field(ge=1, le=1 << 26)]
"""A worker reads its part of a batch at once."""
WindowTokens = Annotated[int, _NUMBER, Field(ge=2, le=LONGEST_WINDOW)]
Rows = Annotated[Literal["auto"] | int, BeforeValidator(_is_auto_or_rows)]
Rank = Annotated[int, _NUMBER, Field(ge=1, le=4096)]
Seed = Annotated[int, _NUMBER, Field(ge=-(1 << 63), lt=1 << 63)]
LearningRate = Annotated[float, _NUMBER, Field(gt=0, le=1)]
"""AdamW moves a number by it in each step, and Muon a matrix by as much of its width."""
Factor = Annotated[float, _NUMBER, Field(gt=0, le=1e6)]
Weight = Annotated[float, _NUMBER, Field(ge=0, le=1)]
Norm = Annotated[float, _NUMBER, Field(ge=0)]
Share = Annotated[float, _NUMBER, Field(ge=0, le=1)]


def require_micro(shape: MicroLMConfig) -> None:
    """Refuse a shape that no machine for a µLM holds.

    Raises:
        ValueError: pydantic says where.
    """
    if shape.n_parameters > MOST_PARAMETERS:
        raise ValueError(
            f"the model would have {shape.n_parameters:.2e} parameters, the limit is"
            f" {MOST_PARAMETERS:.0e}: make d_model, n_layers or d_ff smaller"
        )
    if shape.max_seq_len > LONGEST_WINDOW:
        raise ValueError(
            f"model.max_seq_len ({shape.max_seq_len}) is more than {LONGEST_WINDOW} tokens:"
            " make it smaller, or leave it away"
        )
