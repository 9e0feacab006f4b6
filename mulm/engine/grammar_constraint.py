"""Holds one answer to a grammar, token by token.

Made by `Grammars` for each sequence, used by the sampler and the speculation in the engine's
thread. Invariants: a token that ends the answer is allowed exactly where the grammar may end; where
a limit, or the grammar itself, lets nothing follow, `is_done` says so once the mask is known; what
is only tried takes nothing from an answer, not even room in the library's lexer.
Shape letters: W words of 32 bits, one bit a token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mulm.engine.grammar_vocabulary import GrammarVocabulary

_BUDGET_S, _BUDGET_PER_TOKEN_S = 0.25, 0.002
"""Of the thread's own time. A step is some 10 to 100 us; a grammar that is ambiguous everywhere
takes longer with each token, and would hold up all other answers."""


class GrammarConstraint:
    """Where in a grammar one answer stands.

    Args:
        matcher: At the beginning.
        trial: Another, whose lexer no answer uses, for tokens that may not come; None where none
            are tried.
        vocabulary: The tokenizer's.
        stop_token_ids: Tokens that may end it.
    """

    def __init__(
        self,
        matcher: Any,
        trial: Any,
        vocabulary: GrammarVocabulary,
        stop_token_ids: Sequence[int],
    ) -> None:
        self._matcher, self._trial = matcher, trial
        self._untried: list[int] = []
        """Accepted, and not yet by `_trial`."""
        self._vocabulary = vocabulary
        self._stops_W = vocabulary.bits(stop_token_ids)
        self._text_W = vocabulary.text_W & ~self._stops_W
        self._is_only_end = False
        self._left_s = _BUDGET_S

    @property
    def may_end(self) -> bool:
        """Whether what was accepted is a whole answer."""
        return bool(self._matcher.is_accepting()) and not self._has_failed

    @property
    def is_done(self) -> bool:
        """Whether nothing can be added, be it whole or broken."""
        return self._is_only_end or self._has_failed or bool(self._matcher.is_stopped())

    @property
    def is_broken(self) -> bool:
        """Whether a limit was met, or a token came that was not allowed."""
        return self._has_failed or (self._is_only_end and not self.may_end)

    @property
    def is_slow(self) -> bool:
        """Whether it has used up so much time that none should be spent on what may come."""
        return self._left_s < _BUDGET_S / 2

    @property
    def error(self) -> str:
        """Why it is broken, where the library says."""
        return str(self._matcher.get_error())

    def fill_mask(self, mask_W: Tensor) -> None:
        """Write a bit for each token id, 1 for allowed.

        `mask_W` are int32 words on the CPU, contiguous, at least as many as the tokenizer needs.
        """
        n_words = self._vocabulary.n_words
        assert mask_W.dtype == torch.int32
        assert mask_W.is_contiguous()
        assert len(mask_W) >= n_words
        mask_W[n_words:] = 0
        own_W = mask_W[:n_words]
        if not self._has_failed:
            begin_s = time.thread_time()
            self._matcher.unsafe_compute_mask_ptr(own_W.data_ptr(), 4 * n_words)
            self._left_s -= time.thread_time() - begin_s
        if self._has_failed:
            own_W.zero_()
        own_W &= self._text_W
        self._is_only_end = not bool(own_W.any())
        if self._is_only_end or self.may_end:
            own_W |= self._stops_W

    def accept(self, token_id: int) -> None:
        """Go on with a token that the mask allows; any other breaks the constraint."""
        self._is_only_end = False
        begin_s = time.thread_time()
        self._matcher.consume_token(token_id)
        self._untried.append(token_id)
        self._left_s += _BUDGET_PER_TOKEN_S - (time.thread_time() - begin_s)

    def count_accepted(self, token_ids: Sequence[int]) -> int:
        """How many of these could follow, one after the other; nothing changes.

        The matcher would break at a token that is none of the tokenizer's.
        """
        text_ids = self._vocabulary.text_ids
        n_text = next((n for n, i in enumerate(token_ids) if i not in text_ids), len(token_ids))
        return int(self._tried().validate_tokens(list(token_ids[:n_text])))

    def copy(self) -> GrammarConstraint:
        """Another one that stands at the same place."""
        other = GrammarConstraint.__new__(GrammarConstraint)
        other._matcher, other._trial = self._tried().deep_copy(), self._tried().deep_copy()
        other._untried = []
        other._vocabulary = self._vocabulary
        other._stops_W, other._text_W = self._stops_W, self._text_W
        other._is_only_end, other._left_s = self._is_only_end, self._left_s
        return other

    def _tried(self) -> Any:
        """The matcher for trials, where the answer stands."""
        if self._untried:
            self._trial.consume_tokens(self._untried)
            self._untried = []
        return self._trial

    @property
    def _has_failed(self) -> bool:
        return self._left_s < 0 or bool(self._matcher.is_error())
