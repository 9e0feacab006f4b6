"""A tokenizer's tokens as the grammar library reads them: bytes, and which are no text.

Made once per engine by `Grammars`. Invariant: special tokens never belong to an answer; only the
tokens that may end it are allowed, by the constraint, where the grammar may end.
Shape letters: W words of 32 bits, one bit a token.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mulm.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from mulm.engine.grammar_constraint import GrammarConstraint


class GrammarVocabulary:
    """The library's tokenizer, and the mask of tokens that are text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        from llguidance import LLTokenizer

        tokens: Any = _Tokens(tokenizer)
        self.n_words = -(-tokenizer.vocab_size // 32)
        self.library_tokenizer: Any = LLTokenizer(tokens)
        ids = range(tokenizer.vocab_size)
        self.text_ids = frozenset(i for i in ids if tokenizer.token_bytes(i))
        self.text_W = self.bits(self.text_ids)

    def bits(self, token_ids: Iterable[int]) -> Tensor:
        """bits_W of some tokens; ids beyond the tokenizer's last are left out."""
        flags = torch.zeros(self.n_words * 32, dtype=torch.bool)
        flags[[i for i in token_ids if i < len(flags)]] = True
        weights = (torch.ones(32, dtype=torch.int64) << torch.arange(32)).expand(self.n_words, 32)
        words = (flags.view(self.n_words, 32).long() * weights).sum(dim=1)
        return torch.where(words >= 1 << 31, words - (1 << 32), words).int()

    def try_mask(self, constraint: GrammarConstraint) -> None:
        """Compute a mask for nobody."""
        constraint.fill_mask(torch.zeros(self.n_words, dtype=torch.int32))


class _Tokens:
    """What the library asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        names = {token_id: name for name, token_id in tokenizer.special_tokens.items()}
        self.eos_token_id = tokenizer.turn_end_id
        self.special_token_ids = list(names)
        self.tokens = [
            names[i].encode() if i in names else tokenizer.token_bytes(i)
            for i in range(tokenizer.vocab_size)
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode(
            text if isinstance(text, str) else text.decode("utf-8", "replace")
        )
