"""Guesses what follows by looking where the text has said the same before (prompt lookup).

Kept by each sequence that is guessed for. Answers that copy, as code, lists and quotations do, are
guessed well; others are guessed seldom. Invariant: the cost of a token does not grow with the text.
"""

from __future__ import annotations

from collections.abc import Sequence

_LENGTHS = (3, 2)
"""Of the run of tokens that must have been there before, the longest first."""


class PromptLookup:
    """Where each run of tokens was seen last."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._n_read = 0

    def guess(self, token_ids: Sequence[int], n_most: int) -> tuple[int, ...]:
        """What followed the newest earlier place that ends as the text does; nothing if none does.

        Args:
            token_ids: The text, which only ever grows from call to call.
            n_most: Tokens at most.
        """
        self._read(token_ids)
        for length in _LENGTHS:
            place = self._after.get(tuple(token_ids[-length:]))
            if place is not None and len(token_ids) > length:
                return tuple(token_ids[place : place + n_most])
        return ()

    def _read(self, token_ids: Sequence[int]) -> None:
        """Note all runs but the one that ends the text, which nothing follows yet."""
        for place in range(max(self._n_read, min(_LENGTHS)), len(token_ids)):
            for length in _LENGTHS:
                if place >= length:
                    self._after[tuple(token_ids[place - length : place])] = place
        self._n_read = len(token_ids)
