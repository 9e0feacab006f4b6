"""Guesses of a smaller model of the same vocabulary, drawn with the numbers of the real tokens.

A `Proposer` (Leviathan et al., 2023; Chen et al., 2023). The same random numbers decide which token
of the draft's distribution is drawn, so the less the two distributions differ, the more often the
guess is the very token. Penalties and grammars hold the draft's tokens too, on a twin of the
sequence. A stream has a window of pages of its own in the draft's cache; who finds none free is not
guessed for. Invariants: a window holds the first `n_read` tokens of its owner and then those that
were guessed; nothing of a sequence changes.

Shape letters: N windows, P pages of one, S sequences, T tokens, R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch

from mulm.engine.pages import pages_for
from mulm.engine.penalties import is_changed_by_answer
from mulm.engine.request import Sequence
from mulm.engine.sampler import choose
from mulm.errors import ConfigError
from mulm.model.batch import Batch, LanguageModel

_CATCH_UP_TOKENS = 256
"""Of all texts that are new or were left behind, in one step, which streams wait for: who is behind
by more guesses nothing yet."""
_KEEP_UP_TOKENS = 32
"""More than a step can find: who is behind by less is read in any case."""


@dataclass(slots=True, eq=False)
class _Window:
    """What the draft's cache holds in some pages."""

    number: int
    owner: Sequence | None = None
    n_read: int = 0
    guesses: list[int] = field(default_factory=list)
    """Read as well, behind the others: right or wrong."""

    @property
    def is_free(self) -> bool:
        """Whether nobody who runs needs it."""
        return self.owner is None or self.owner.slot is None

    def unread(self, end: int) -> list[int]:
        """The owner's tokens up to `end` that are not there, the newest in any case."""
        assert self.owner is not None
        ids = self.owner.token_ids
        for token_id, guess in zip(ids[self.n_read : -1], self.guesses, strict=False):
            if token_id != guess:
                break
            self.n_read += 1
        self.guesses = []
        return ids[self.n_read : end]


@dataclass(slots=True, eq=False)
class _Stream:
    """A sequence that is guessed for in this step."""

    sequence: Sequence
    window: _Window
    ids: list[int]
    """To be read next, from `position` on."""
    position: int
    n_wanted: int
    twin: Sequence | None = None
    """Goes on with the guesses, where logits hang on them."""
    guesses: list[int] = field(default_factory=list)

    def take(self, token_id: int) -> bool:
        """Guess it; whether there is more to guess."""
        self.position += len(self.ids)
        self.ids = [token_id]
        self.guesses.append(token_id)
        if len(self.guesses) == self.n_wanted or token_id in self.sequence.sampling.stop_token_ids:
            return False
        return self.twin is None or _goes_on(self.twin, token_id)


class DraftModel:
    """A smaller model, with a cache for the sequences of one engine.

    Args:
        model: Anything that fulfils `LanguageModel`.
        kv_bytes: Memory for its keys and values, one window at least; by default one for each slot.
    """

    def __init__(self, model: LanguageModel, kv_bytes: int | None = None) -> None:
        self._model, self._kv_bytes = model, kv_bytes
        self._windows: list[_Window] = []
        self._window_of: dict[Sequence, _Window] = {}
        self._cache: Any = None
        self._max_seq_len = self._n_catching_up = 0
        self._table_NP = torch.empty(0, 0, dtype=torch.int32)

    @property
    def n_windows(self) -> int:
        """Streams that can be guessed for at the same time."""
        return len(self._windows)

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
        n_windows = n_slots
        if self._kv_bytes is not None:
            affordable = self._kv_bytes // (n_pages * self._model.page_bytes())
            n_windows = max(1, min(n_slots, affordable))
        self._windows, self._window_of = [_Window(n) for n in range(n_windows)], {}
        self._cache = self._model.make_cache(n_windows * n_pages)
        pages_X = torch.arange(n_windows * n_pages, dtype=torch.int32)
        self._table_NP = pages_X.view(n_windows, n_pages)

    def propose(self, sequences: Items[Sequence], counts: Items[int]) -> list[list[int]]:
        """As `Proposer.propose`."""
        self._n_catching_up = _CATCH_UP_TOKENS
        streams = [self._stream(s, n) for s, n in zip(sequences, counts, strict=True)]
        left = [stream for stream in streams if stream is not None and stream.ids]
        while left:
            found = self._extend(left)
            guessing = [stream for stream in left if stream.n_wanted]
            left = [s for s, token_id in zip(guessing, found, strict=True) if s.take(token_id)]
        for stream in streams:
            if stream is not None:
                stream.window.guesses = stream.guesses[:-1]
        return [[] if stream is None else stream.guesses for stream in streams]

    def _stream(self, sequence: Sequence, count: int) -> _Stream | None:
        window = self._window(sequence)
        if window is None:
            return None
        ids, position = window.unread(self._max_seq_len), window.n_read
        if len(ids) > _KEEP_UP_TOKENS:
            ids = ids[: self._n_catching_up]
            self._n_catching_up -= len(ids)
        window.n_read += len(ids)
        n_wanted = min(count, self._max_seq_len - len(sequence.token_ids))
        if window.n_read < len(sequence.token_ids):
            n_wanted = 0
        needs_twin = n_wanted > 0 and is_changed_by_answer(sequence)
        twin = sequence.twin() if needs_twin else None
        return _Stream(sequence, window, ids, position, max(0, n_wanted), twin)

    def _window(self, sequence: Sequence) -> _Window | None:
        """Its own, or one that nobody needs any more."""
        window = self._window_of.get(sequence)
        if window is None:
            window = next((window for window in self._windows if window.is_free), None)
            if window is None:
                return None
            if window.owner is not None:
                del self._window_of[window.owner]
            window.owner, window.n_read, window.guesses = sequence, 0, []
            self._window_of[sequence] = window
        return window

    def _extend(self, streams: Items[_Stream]) -> list[int]:
        """Read what they have to read; the token that would be drawn after each that wants one."""
        begins = [0, *accumulate(len(stream.ids) for stream in streams)]
        positions = [stream.position + n for stream in streams for n in range(len(stream.ids))]
        numbers = torch.tensor([stream.window.number for stream in streams])
        n_pages = pages_for(max(positions) + 1)
        batch = Batch(
            _int32([token_id for stream in streams for token_id in stream.ids]),
            _int32(positions),
            _int32(begins),
            self._table_NP[numbers, :n_pages].contiguous(),
            _int32([end - 1 for s, end in zip(streams, begins[1:], strict=True) if s.n_wanted]),
        )
        hidden_RD = self._model.extend(batch, self._cache)
        guessing = [stream for stream in streams if stream.n_wanted]
        if not guessing:
            return []
        ahead = [0 if stream.twin else len(stream.guesses) for stream in guessing]
        rows = [stream.twin or stream.sequence for stream in guessing]
        return choose(self._model.logits(hidden_RD).float(), rows, ahead)


def _goes_on(twin: Sequence, token_id: int) -> bool:
    """Add a token to a twin; whether another one can follow."""
    twin.token_ids.append(token_id)
    if twin.constraint is None:
        return True
    twin.constraint.accept(token_id)
    return not twin.constraint.is_done


def _int32(values: Items[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)
