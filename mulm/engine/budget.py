"""How many tokens of prompts a step reads beside running streams, so that it does not last long.

Kept by the engine, which tells it how long each step took. It aims: a machine that slows down is
noticed a step late, and a page may take longer than a step should. Invariants: at least a page a
step, so that every prompt comes to its end; without streams nobody waits, and a step reads all that
it may.
"""

from __future__ import annotations

from mulm.errors import ConfigError
from mulm.model.batch import PAGE_TOKENS

_NEWEST = 0.2
"""The weight of the newest step in what is believed; the machine's speed changes by the second."""

_LEAST_TOLD = 2 * PAGE_TOKENS
"""Fewer tokens tell little about what one costs."""


class StepBudget:
    """Believes two numbers: how long streams alone take, and what a token of a prompt adds.

    Args:
        most_tokens: Of a step.
        longest_s: What a step that streams wait for aims at; None for plans that depend on no
            clock.

    Raises:
        ConfigError: not a token at a time.
    """

    def __init__(self, most_tokens: int, longest_s: float | None) -> None:
        if most_tokens < 1:
            raise ConfigError(f"{most_tokens} tokens a step read no prompt", param="prefill_tokens")
        self._most_tokens, self._longest_s = most_tokens, longest_s
        self._streams_s: float | None = None
        self._token_s: float | None = None

    def tokens(self, n_streams: int) -> int:
        """Tokens of prompts that the next step may read."""
        if self._longest_s is None or not n_streams or not self._token_s:
            return self._most_tokens
        left_s = self._longest_s - (self._streams_s or 0.0)
        affordable = int(left_s / self._token_s) // PAGE_TOKENS * PAGE_TOKENS
        return min(self._most_tokens, max(PAGE_TOKENS, affordable))

    def learn(self, n_streams: int, n_tokens: int, seconds: float) -> None:
        """A step read `n_tokens` of prompts beside that many streams."""
        if not n_tokens and n_streams:
            self._streams_s = _believe(self._streams_s, seconds)
        elif n_tokens >= _LEAST_TOLD:
            streams_s = (self._streams_s or 0.0) if n_streams else 0.0
            self._token_s = _believe(self._token_s, max(0.0, seconds - streams_s) / n_tokens)


def _believe(before: float | None, seen: float) -> float:
    return seen if before is None else before + _NEWEST * (seen - before)
