"""One sequence while it is being generated.

Made by the engine from a `GenerateRequest`, moved by the scheduler. Only primary facts are
stored (tokens, how many of them the cache holds, the slot); everything else is derived.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mulm.messages import FinishReason, GenerateRequest, SamplingParams


@dataclass(slots=True, eq=False)
class Sequence:
    """One row of the engine.

    `token_ids` are prompt and generated tokens; the first `n_cached` of them have their keys and
    values in the slot. The newest generated token is never cached until the next decode.
    """

    request: GenerateRequest
    arrival_s: float
    generator: torch.Generator
    token_ids: list[int] = field(default_factory=list)
    n_cached: int = 0
    slot: int | None = None
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        self.token_ids.extend(self.request.prompt_ids)

    @property
    def id(self) -> str:
        """The request's id."""
        return self.request.request_id

    @property
    def sampling(self) -> SamplingParams:
        """How its tokens are chosen."""
        return self.request.sampling

    @property
    def n_prompt(self) -> int:
        """Tokens that the client gave."""
        return len(self.request.prompt_ids)

    @property
    def n_generated(self) -> int:
        """Tokens that the model added."""
        return len(self.token_ids) - self.n_prompt

    @property
    def is_prefilling(self) -> bool:
        """Whether part of the prompt is still unread."""
        return self.n_cached < self.n_prompt

    def is_late(self, now_s: float) -> bool:
        """Whether its deadline has passed."""
        return now_s >= self.arrival_s + self.request.deadline_s

    def append(self, token_id: int) -> tuple[int, ...]:
        """Take a sampled token, note whether it ends the sequence; returns what the client gets."""
        if token_id in self.sampling.stop_token_ids:
            self.finish_reason = "stop"
            return ()
        self.token_ids.append(token_id)
        if self.n_generated >= self.sampling.max_tokens:
            self.finish_reason = "length"
        return (token_id,)
