"""How often each token stands in one sequence, kept up as it grows.

Made by the penalties for a sequence that has some. Invariant: the cost of a token does not depend
on how long the text is. Shape letters: U different tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor


class Tally:
    """The different tokens seen so far, and how often the answer has each.

    Args:
        token_ids: Prompt and answer; may grow, never shrink.
        n_prompt: Tokens of the prompt.
        has_prompt: Whether its tokens are listed too, with a count of 0.
    """

    def __init__(self, token_ids: Sequence[int], n_prompt: int, *, has_prompt: bool) -> None:
        self._token_ids = token_ids
        self._n_seen = n_prompt
        known = dict.fromkeys(token_ids[:n_prompt]) if has_prompt else {}
        self._place = {token_id: place for place, token_id in enumerate(known)}
        self._ids = array("q", known)
        self._counts = array("f", [0.0] * len(known))

    def now(self) -> tuple[Tensor, Tensor]:
        """(ids_U, counts_U) of all tokens so far; views, to be let go before the next call."""
        for token_id in self._token_ids[self._n_seen :]:
            place = self._place.setdefault(token_id, len(self._place))
            if place == len(self._ids):
                self._ids.append(token_id)
                self._counts.append(0.0)
            self._counts[place] += 1
        self._n_seen = len(self._token_ids)
        if not self._ids:
            return torch.empty(0, dtype=torch.int64), torch.empty(0)
        return (
            torch.frombuffer(self._ids, dtype=torch.int64),
            torch.frombuffer(self._counts, dtype=torch.float32),
        )

    def copy(self, token_ids: Sequence[int]) -> Tally:
        """Another one for a text that begins as this one does."""
        other = Tally((), 0, has_prompt=False)
        other._token_ids, other._n_seen = token_ids, self._n_seen
        other._place, other._ids, other._counts = dict(self._place), self._ids[:], self._counts[:]
        return other
