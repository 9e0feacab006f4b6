"""The configuration of samples: what the model is asked to go on with while it is trained.

Part of a training config (`mulm.train.config`). Needs no torch.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mulm.config import Frozen

MAX_PROMPTS = 16
Prompt = Annotated[str, Field(min_length=1)]


class SamplesConfig(Frozen):
    """Texts by the model under training, so that a person can read how it comes along."""

    prompts: Annotated[tuple[Prompt, ...], Field(max_length=MAX_PROMPTS)] = ()
    """Beginnings of documents. Without any, a few of held-out ones, for as long as that takes
    less than a hundredth of the run's time."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Steps between two times; by default whenever the run is validated."""
    max_tokens: Annotated[int, Field(ge=1, le=1024)] = 48
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """0 is greedy. The random numbers are the same each time."""
