"""Draws a step's tokens and has the answers take them.

Called by the engine with what the model said about a plan. Invariant: each token is drawn with its
sequence in the very state that it would have without guesses. Rows whose logits hang on what has
been generated (penalties, grammars, `min_tokens`) are therefore drawn in order, the next one once
the guess before it was right; all others at once. So a wrong guess leaves nothing to take back.

Shape letters: R rows, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from mulm.engine.penalties import is_changed_by_answer
from mulm.engine.prompt_rows import mean_hidden
from mulm.engine.runner import Outcome
from mulm.engine.sampler import Sampled, sample
from mulm.engine.scheduler import Work
from mulm.messages import TokenChunk, TokenLogprob


@dataclass(slots=True)
class Drawn:
    """What an answer has taken in one step."""

    work: Work
    token_ids: tuple[int, ...] = ()
    """Those that its client gets."""
    logprobs: tuple[TokenLogprob, ...] = ()
    n_right: int = 0
    """Guesses that were right, and were not the end."""

    def take(self, token: Sampled) -> bool:
        """Take the next token; whether it was guessed, so that the row after it counts."""
        sequence, guesses, n_right = self.work.sequence, self.work.guesses, self.n_right
        taken = sequence.append(token.token_id, token.logprob)
        self.token_ids += taken
        if taken and token.logprob is not None:
            self.logprobs += (token.logprob,)
        if sequence.finish_reason or n_right == len(guesses) or token.token_id != guesses[n_right]:
            return False
        self.n_right += 1
        return True

    @property
    def n_rows(self) -> int:
        """How many of the rows that are left can be drawn at once."""
        in_order = is_changed_by_answer(self.work.sequence)
        return 1 if in_order else 1 + len(self.work.guesses) - self.n_right

    def chunk(self) -> TokenChunk:
        """What is told of it; with an answer's first also what was found out about its prompt."""
        sequence = self.work.sequence
        reason, request_id = sequence.finish_reason, sequence.request.request_id
        if sequence.has_begun:
            return TokenChunk(request_id, self.token_ids, reason, sequence.index, self.logprobs)
        sequence.has_begun = True
        prompt_logprobs = tuple(sequence.prompt_logprobs)
        return TokenChunk(
            request_id, self.token_ids, reason, sequence.index, self.logprobs, prompt_logprobs,
            sequence.n_found or 0, mean_hidden(sequence),
        )  # fmt: skip


def draw(
    works: Items[Work], numbers: Items[int], outcome: Outcome, logits: Callable[[Tensor], Tensor]
) -> list[Drawn]:
    """For each of these works a token after its newest, and more where its guesses were right.

    Args:
        works: The plan.
        numbers: Those of works that have read all of theirs.
        outcome: What the model said about the plan.
        logits: Of hidden states, fp32; given away.
    """
    found = [Drawn(works[number]) for number in numbers]
    for drawn in found:
        if not drawn.work.sequence.sampling.max_tokens:
            drawn.work.sequence.finish_reason = "length"
    takers = [drawn for drawn in found if drawn.work.sequence.finish_reason is None]
    if not takers:
        return found
    if len(takers) < len(found):
        numbers = [n for n in numbers if works[n].sequence.finish_reason is None]
    hidden_RD, counts = outcome.drawn_rows(works, numbers)
    if len(hidden_RD) > len(takers):
        _verify(logits(hidden_RD), takers, counts)
    else:
        tokens = sample(logits(hidden_RD), [drawn.work.sequence for drawn in takers])
        for drawn, token in zip(takers, tokens, strict=True):
            drawn.take(token)
    return found


def _verify(logits_RV: Tensor, takers: Items[Drawn], counts: Items[int]) -> None:
    """Draw row after row, as far as guesses are right; a pass for all whose next row counts."""
    left = list(zip(takers, accumulate(counts, initial=0), strict=False))
    while left:
        asked = [drawn.n_rows for drawn, _ in left]
        rows = [
            begin + drawn.n_right + at
            for (drawn, begin), n in zip(left, asked, strict=True)
            for at in range(n)
        ]
        ahead = [at for n in asked for at in range(n)]
        sequences = [
            drawn.work.sequence for (drawn, _), n in zip(left, asked, strict=True) for _ in range(n)
        ]
        mine_RV = logits_RV if len(rows) == len(logits_RV) else logits_RV[rows]
        tokens = iter(sample(mine_RV, sequences, ahead))
        left = [
            (drawn, begin)
            for (drawn, begin), n in zip(left, asked, strict=True)
            if _take_all(drawn, [next(tokens) for _ in range(n)])
        ]


def _take_all(drawn: Drawn, tokens: Items[Sampled]) -> bool:
    """Take these as far as guesses are right; whether the row after the last one counts."""
    return all(drawn.take(token) for token in tokens)
