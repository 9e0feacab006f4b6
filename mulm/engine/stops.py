"""Watches the text of an answer for the strings that end it.

Made by the engine for requests with stop strings. Invariant: a stop is seen with the token that
completes it, wherever tokens cut the text; the cost of a token does not grow with the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from mulm.data.tokenizer import IncrementalDecoder, Tokenizer


class StopStrings:
    """The newest text of one answer, as long as the longest stop."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = stops
        self._longest = max(map(len, stops))
        self._tail = ""

    def push(self, token_id: int) -> bool:
        """Whether a stop is whole with this token."""
        n_before = len(self._tail)
        text = self._tail + self._decoder.push([token_id])
        self._tail = text[max(0, len(text) - self._longest + 1) :] if self._longest > 1 else ""
        # A short one that was seen before, and passed over, may be in the tail still.
        return any(text.find(stop, max(0, n_before - len(stop) + 1)) >= 0 for stop in self._stops)
