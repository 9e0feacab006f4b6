"""Speculation: tokens that are guessed, then read together, so that a step may give several.

Called by the engine. A token's random numbers are a function of its seed, choice and position, so
a guess is right or wrong: it is taken where it equals the token that is drawn there anyway. Who
proposes fulfils `Proposer`; where its guesses do not pay it is not asked. Guesses that cannot be
right (behind an end, or against a grammar) are not read. Invariant: guesses change no answer, only
how many steps it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from typing import Protocol

from mulm.engine.payoff import Payoff
from mulm.engine.request import Sequence
from mulm.engine.scheduler import Work

_FIRST_LENGTH = 2
_LONGEST_PAUSE = 64


class Proposer(Protocol):
    """Guesses the next tokens of running streams.

    It may keep what it knows of a sequence by its slot: the slot is the sequence's own until it is
    seen with another one.
    """

    def start(self, n_slots: int, max_seq_len: int, vocab_size: int) -> None:
        """Make ready for the sequences of one engine; called once.

        Raises:
            ConfigError: it has another vocabulary.
        """

    def propose(self, sequences: Items[Sequence], counts: Items[int]) -> list[list[int]]:
        """At most so many next tokens of each; any number of them, none where it knows nothing."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """Who guesses, and how many tokens at most.

    The proposer belongs to one engine.
    """

    proposer: Proposer
    max_guesses: int = 8


@dataclass(slots=True)
class _Stream:
    """How guesses fared in one slot: more of them after success, pauses after failure."""

    owner: Sequence | None = None
    length: int = _FIRST_LENGTH
    pause: int = 0
    n_to_wait: int = 0

    def learn(self, n_guesses: int, n_right: int, longest: int) -> None:
        if n_right == n_guesses:
            self.length = min(2 * self.length, longest)
        else:
            self.length = n_right + 1
        self.pause = 0 if n_right else min(2 * self.pause + 1, _LONGEST_PAUSE)
        self.n_to_wait = self.pause


class Speculator:
    """Adds guesses to a step's plan, and learns whether they pay.

    Args:
        speculation: Who guesses.
        n_slots: Sequences that run at the same time.
        room_ahead: How many tokens behind its next one a sequence has room for.
    """

    def __init__(
        self,
        speculation: Speculation,
        n_slots: int,
        room_ahead: Callable[[Sequence, int], int],
    ) -> None:
        self.n_proposed = self.n_accepted = 0
        self._proposer, self._longest = speculation.proposer, speculation.max_guesses
        self._room_ahead = room_ahead
        self._streams = [_Stream() for _ in range(n_slots)]
        self._payoff = Payoff()
        self._n_right = 0
        self._is_asked = False

    def go_on_from(self, other: Speculator) -> None:
        """Count on where another one stops."""
        self.n_proposed, self.n_accepted = other.n_proposed, other.n_accepted

    def guess(self, works: list[Work]) -> list[Work]:
        """The plan, with guesses where they are worth a try."""
        self._n_right, self._is_asked = 0, False
        if not self._payoff.is_wanted(len(works)):
            return works
        asked = {n: count for n, work in enumerate(works) if (count := self._n_wanted(work)) > 0}
        if not asked:
            return works
        self._is_asked = True
        found = self._proposer.propose([works[n].sequence for n in asked], list(asked.values()))
        works = list(works)
        for (n, count), proposed in zip(asked.items(), found, strict=True):
            guesses = possible(works[n].sequence, proposed[:count])
            n_fitting = self._room_ahead(works[n].sequence, len(guesses))
            works[n] = replace(works[n], guesses=tuple(guesses[:n_fitting]))
            self.n_proposed += n_fitting
        return works

    def note(self, work: Work, n_right: int) -> None:
        """How many of a work's guesses were right."""
        self._stream(work.sequence).learn(len(work.guesses), n_right, self._longest)
        self._n_right += n_right
        self.n_accepted += n_right

    def learn(self, works: list[Work], seconds: float) -> None:
        """What the step took.

        Steps that read prompts say nothing about guesses, nor do those in which nobody had any:
        they are not plain either.
        """
        is_guessed = any(work.guesses for work in works)
        is_telling = is_guessed or not self._is_asked
        if is_telling and all(work.n_tokens == 1 for work in works):
            n_tokens = len(works) + self._n_right
            self._payoff.note(len(works), n_tokens, seconds, is_guessed=is_guessed)

    def _n_wanted(self, work: Work) -> int:
        """Guesses that are of use: none beyond the answer's end."""
        sequence = work.sequence
        is_stream = work.is_complete and work.n_tokens == 1 and sequence.has_begun
        if not is_stream or (sequence.constraint is not None and sequence.constraint.is_slow):
            return 0
        stream = self._stream(sequence)
        if stream.n_to_wait:
            stream.n_to_wait -= 1
            return 0
        return min(stream.length, sequence.sampling.max_tokens - sequence.n_generated - 1)

    def _stream(self, sequence: Sequence) -> _Stream:
        assert sequence.slot is not None
        if self._streams[sequence.slot].owner is not sequence:
            length = min(_FIRST_LENGTH, self._longest)
            self._streams[sequence.slot] = _Stream(sequence, length)
        return self._streams[sequence.slot]


def possible(sequence: Sequence, guesses: list[int]) -> list[int]:
    """As many of the guesses as could be right, as far as that is known without the model."""
    stops = sequence.sampling.stop_token_ids
    if stops:
        n_before_end = next((n for n, guess in enumerate(guesses) if guess in stops), len(guesses))
        guesses = guesses[:n_before_end]
    if guesses and sequence.constraint is not None:
        guesses = guesses[: sequence.constraint.count_accepted(guesses)]
    return guesses
