"""What an answer's deltas add up to: its choices, and the tokens that they cost.

Used by all that write whole answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mulm.messages import TokenLogprob
from serve_app.openai_api.choices import Delta


@dataclass(slots=True)
class Finished:
    """One choice, as far as its deltas were added."""

    index: int
    text: str = ""
    finish_reason: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()

    def add(self, delta: Delta) -> None:
        """Take one more, in order."""
        self.text += delta.text
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs
        self.prompt_logprobs = self.prompt_logprobs or delta.prompt_logprobs


@dataclass(slots=True)
class Usage:
    """Tokens of an answer so far."""

    n_prompt: int
    n_new: int = 0
    n_cached: int = 0

    def add(self, delta: Delta) -> None:
        """Count one more delta."""
        self.n_new += len(delta.token_ids)
        self.n_cached += delta.n_cached_tokens

    def written(self) -> dict[str, Any]:
        """As OpenAI writes it."""
        return {
            "prompt_tokens": self.n_prompt,
            "completion_tokens": self.n_new,
            "total_tokens": self.n_prompt + self.n_new,
            "prompt_tokens_details": {"cached_tokens": min(self.n_cached, self.n_prompt)},
        }
