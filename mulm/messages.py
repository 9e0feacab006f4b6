"""What crosses a process border on the way from request to tokens: small, frozen, picklable.

The ingress makes a `GenerateRequest`; the engine answers with `TokenChunk`s until one
carries a `finish_reason`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "deadline"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen; the defaults are OpenAI's.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1.0 keep all tokens. A request with a
    `seed` gives the same tokens whatever runs beside it. `stop_token_ids` end the sequence and
    are not returned. Stop *strings* are the ingress's business: only it sees text.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One sequence to be generated."""

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    deadline_s: float = 600.0
    """Seconds after arrival at which the engine gives up and finishes with "deadline"."""


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """New tokens of one request, in order; the last one has a finish reason."""

    request_id: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
