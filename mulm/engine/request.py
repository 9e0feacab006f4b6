"""One choice of a request while it is being generated.

Made by the engine from a `GenerateRequest`, moved by the scheduler. Only primary facts are
stored (tokens, how many of them the cache holds, the pages); everything else is derived.
"""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from mulm.engine.tally import Tally
from mulm.messages import FinishReason, GenerateRequest, SamplingParams, TokenLogprob


class Constraint(Protocol):
    """What the next token may be, as a grammar says."""

    def fill_mask(self, mask_W: Tensor) -> None:
        """Write a bit for each token id, 32 in an int32 word, 1 for allowed."""

    def accept(self, token_id: int) -> None:
        """Go on with a token, which was allowed."""

    def count_accepted(self, token_ids: Items[int]) -> int:
        """How many of these could follow, one after the other; nothing changes."""

    def copy(self) -> Constraint:
        """Another one that stands at the same place; what becomes of it changes nothing here."""

    @property
    def is_done(self) -> bool:
        """Whether nothing can be added."""

    @property
    def is_broken(self) -> bool:
        """Whether it gave up, at a limit, before the answer was whole."""

    @property
    def is_slow(self) -> bool:
        """Whether it takes too long to be tried on tokens that may not come."""


class StopText(Protocol):
    """Watches an answer for the texts that end it."""

    def push(self, token_id: int) -> bool:
        """Whether a stop is whole with this token."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One row of the engine.

    `token_ids` are prompt and generated tokens; the first `n_cached` of them have their keys and
    values in `pages`, the first `n_kept` pages of which can be found by others. All tokens but the
    newest are read before one is sampled: a fresh prompt, an answer that lost its pages and a
    running stream differ only in how many tokens are unread.
    """

    request: GenerateRequest
    index: int
    seed: int
    token_ids: list[int] = field(default_factory=list)
    n_cached: int = 0
    pages: list[int] = field(default_factory=list)
    n_kept: int = 0
    last_kept: Hashable = None
    slot: int | None = None
    finish_reason: FinishReason | None = None
    constraint: Constraint | None = None
    stop_text: StopText | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)
    hidden_sum_D: Tensor | None = None
    n_found: int | None = None
    """Tokens whose pages were there when it was first admitted; None before that."""
    has_begun: bool = False
    tally: Tally | None = None
    """How often the answer has each token, once somebody asks."""

    def __post_init__(self) -> None:
        self.token_ids.extend(self.request.prompt_ids)

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
    def n_unread(self) -> int:
        """Tokens that the cache does not hold."""
        return len(self.token_ids) - self.n_cached

    @property
    def wants_all_rows(self) -> bool:
        """Whether every row of the prompt is looked at, so that none may be found in pages."""
        return self.request.is_embedding or self.sampling.prompt_logprobs is not None

    @property
    def wants_logprobs(self) -> bool:
        """Whether its tokens' log-probabilities are told, or choose among its choices."""
        return self.sampling.logprobs is not None or self.request.best_of > self.request.n

    @property
    def root(self) -> Hashable:
        """What the first page follows: only those of the same adapter are alike."""
        return ("root", self.request.adapter)

    def append(self, token_id: int, logprob: TokenLogprob | None) -> tuple[int, ...]:
        """Take a sampled token, note whether it ends the choice; returns what the client gets.

        Where the grammar lets nothing follow the token is none of the answer's, whatever it is: the
        one that ends it, or, where none was named, what is drawn when all is forbidden.
        """
        is_at_end = self.constraint is not None and self.constraint.is_done
        may_stop = self.n_generated >= self.sampling.min_tokens
        if is_at_end or (may_stop and token_id in self.sampling.stop_token_ids):
            self.finish_reason = self._end
            return ()
        self.token_ids.append(token_id)
        if logprob is not None:
            self.logprobs.append(logprob)
        if self.constraint is not None:
            self.constraint.accept(token_id)
        has_stop = self.stop_text is not None and self.stop_text.push(token_id)
        if has_stop and self.n_generated >= self.sampling.min_tokens:
            self.finish_reason = "stop"
        elif self.constraint is not None and self.constraint.is_done:
            self.finish_reason = self._end
        elif self.n_generated >= self.sampling.max_tokens:
            self.finish_reason = "length"
        return (token_id,)

    def twin(self) -> Sequence:
        """Another one with the same tokens, to try more of them on; nothing changes here."""
        twin = Sequence(self.request, self.index, self.seed)
        twin.token_ids = list(self.token_ids)
        twin.tally = None if self.tally is None else self.tally.copy(twin.token_ids)
        twin.constraint = None if self.constraint is None else self.constraint.copy()
        return twin

    @property
    def _end(self) -> FinishReason:
        """How an answer ends of itself: cut, where its grammar could not be held to the end."""
        is_cut = self.constraint is not None and self.constraint.is_broken
        return "length" if is_cut else "stop"
