"""The choices of one request, and what of them is told when.

Made by the engine for every request. Invariants: each of the `n` choices ends in exactly one chunk
with a finish reason; with `best_of` nothing is told before all have ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from mulm.engine.request import Sequence
from mulm.messages import GenerateRequest, TokenChunk


@dataclass(slots=True)
class Group:
    """A request with its sequences, and the chunks that are held back."""

    request: GenerateRequest
    sequences: list[Sequence]
    n_ended: int = 0
    held: list[TokenChunk] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        """Whether no choice goes on."""
        return self.n_ended == len(self.sequences)

    def tell(self, chunk: TokenChunk) -> list[TokenChunk]:
        """What the client gets now, of this chunk and those before it."""
        self.n_ended += chunk.finish_reason is not None
        if len(self.sequences) == self.request.n:
            return [chunk]
        self.held.append(chunk)
        return self._best() if self.has_ended else []

    def _best(self) -> list[TokenChunk]:
        best = sorted(self.sequences, key=_mean_logprob, reverse=True)[: self.request.n]
        numbers = {s.index: number for number, s in enumerate(best)}
        is_told = self.request.sampling.logprobs is not None
        return [
            replace(chunk, index=numbers[chunk.index], logprobs=chunk.logprobs if is_told else ())
            for chunk in self.held
            if chunk.index in numbers
        ]


def _mean_logprob(sequence: Sequence) -> float:
    """Of an answer's tokens; one that says nothing is the last to be chosen."""
    found = [item.logprob for item in sequence.logprobs]
    return sum(found) / len(found) if found else -math.inf
