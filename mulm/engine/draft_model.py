"""Guesses of a smaller model of the same vocabulary, drawn with the numbers of the real tokens.

A `Proposer` (Leviathan et al., 2023; Chen et al., 2023). The same random numbers decide which token
of the draft's distribution is drawn, so the less the two distributions differ, the more often the
guess is the very token. Each slot has a window of pages of its own in the draft's cache. Invariant:
the cache holds the first `n_read` tokens of a slot's sequence and then those that were guessed.

Shape letters: S slots, P pages of one sequence, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch

from mulm.engine.pages import pages_for
from mulm.engine.request import Sequence
from mulm.engine.sampler import sample
from mulm.errors import ConfigError
from mulm.model.batch import Batch, LanguageModel

_READ_TOKENS = 256
"""Tokens of one text that are read in one step: who is behind by more guesses nothing yet."""


@dataclass(slots=True)
class _Row:
    """What the draft's cache holds in one slot."""

    owner: Sequence | None = None
    n_read: int = 0
    guesses: list[int] = field(default_factory=list)
    """Read as well, behind the others: right or wrong."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens to be read, of which the last one's row is looked at."""

    sequence: Sequence
    ids: Items[int]
    position: int


class DraftModel:
    """A smaller model, with a cache for the sequences of one engine.

    Args:
        model: Anything that fulfils `LanguageModel`.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._rows: list[_Row] = []
        self._cache: Any = None
        self._max_seq_len = 0
        self._table_SP = torch.empty(0, 0, dtype=torch.int32)

    def start(self, n_slots: int, max_seq_len: int, vocab_size: int) -> None:
        """As `Proposer.start`."""
        if int(self._model.config.vocab_size) != vocab_size:
            raise ConfigError(
                f"the draft model has {self._model.config.vocab_size} tokens, the model"
                f" {vocab_size}",
                hint="a draft model needs the model's own tokenizer",
                param="draft",
            )
        self._max_seq_len = min(max_seq_len, self._model.config.max_seq_len)
        n_pages = pages_for(self._max_seq_len)
        self._rows = [_Row() for _ in range(n_slots)]
        self._cache = self._model.make_cache(n_slots * n_pages)
        self._table_SP = torch.arange(n_slots * n_pages, dtype=torch.int32).view(n_slots, n_pages)

    def propose(self, sequences: Items[Sequence], counts: Items[int]) -> list[list[int]]:
        """As `Proposer.propose`."""
        pieces = [self._unread(sequence) for sequence in sequences]
        found: dict[Sequence, list[int]] = {sequence: [] for sequence in sequences}
        wanted = {
            s: min(count, self._max_seq_len - len(s.token_ids))
            for s, count, piece in zip(sequences, counts, pieces, strict=True)
            if piece.position + len(piece.ids) == len(s.token_ids)
        }
        while pieces := [piece for piece in pieces if piece.ids]:
            ids = self._extend(pieces, [len(found[piece.sequence]) for piece in pieces])
            for piece, token_id in zip(pieces, ids, strict=True):
                if len(found[piece.sequence]) < wanted.get(piece.sequence, 0):
                    found[piece.sequence].append(token_id)
            pieces = [
                _Piece(s, guesses[-1:], len(s.token_ids) + len(guesses) - 1)
                for s, guesses in found.items()
                if 0 < len(guesses) < wanted[s]
            ]
        for sequence, guesses in found.items():
            self._row(sequence).guesses = guesses[:-1]
        return list(found.values())

    def _unread(self, sequence: Sequence) -> _Piece:
        """What the draft has not read of a sequence, as much as it may read at once."""
        row = self._row(sequence)
        new = sequence.token_ids[row.n_read : row.n_read + len(row.guesses)]
        for token_id, guess in zip(new, row.guesses, strict=False):
            if token_id != guess:
                break
            row.n_read += 1
        end = min(row.n_read + _READ_TOKENS, self._max_seq_len)
        piece = _Piece(sequence, sequence.token_ids[row.n_read : end], row.n_read)
        row.n_read += len(piece.ids)
        return piece

    def _row(self, sequence: Sequence) -> _Row:
        assert sequence.slot is not None
        if self._rows[sequence.slot].owner is not sequence:
            self._rows[sequence.slot] = _Row(sequence)
        return self._rows[sequence.slot]

    def _extend(self, pieces: Items[_Piece], ahead: Items[int]) -> list[int]:
        """Read the pieces; the token that would be drawn after each."""
        begins = [0, *accumulate(len(piece.ids) for piece in pieces)]
        positions = [piece.position + n for piece in pieces for n in range(len(piece.ids))]
        slots = torch.tensor([piece.sequence.slot for piece in pieces])
        n_pages = pages_for(max(positions) + 1)
        ids = [token_id for piece in pieces for token_id in piece.ids]
        batch = Batch(
            _int32(ids),
            _int32(positions),
            _int32(begins),
            self._table_SP[slots, :n_pages].contiguous(),
            _int32([end - 1 for end in begins[1:]]),
        )
        logits_RV = self._model.logits(self._model.extend(batch, self._cache)).float()
        drawn = sample(logits_RV, [piece.sequence for piece in pieces], ahead)
        return [sampled.token_id for sampled in drawn]


def _int32(values: Items[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)
