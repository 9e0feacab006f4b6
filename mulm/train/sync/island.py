"""An island's side of the rounds: its anchor, what it has sent, and what came back.

Owned by `DilocoSync` on worker 0 of an island; `poll` is called between two steps, in the training
loop's thread, and the threads of `exchange` talk meanwhile. Invariants: the anchor is bit for bit
the aggregator's public one; weights minus anchor is all that this island has learned and that is in
no update yet, so progress that came late, was rounded away or was made while talking goes with a
later round; parameters are touched by the training loop's thread alone. Shape letters: N numbers of
a fragment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

from torch import Tensor

from mulm.errors import NotRunningError
from mulm.train.sync.codec import Wire
from mulm.train.sync.codecs import CODECS
from mulm.train.sync.exchange import Exchanged, Exchanges, Sent
from mulm.train.sync.fragment import Fragment
from mulm.train.sync.rounds import (
    Anchor,
    Lease,
    NotAMemberError,
    Rounds,
    Standing,
    checksum,
)

_log = logging.getLogger(__name__)

_STALE_ROUNDS = 4
"""Progress from an anchor that is older is not worth adding to a newer one."""
_FP32 = CODECS["fp32"]


@dataclass(frozen=True, slots=True)
class IslandPlan:
    """How an island takes part.

    A round of a fragment is sent `round_s` after its last update came, until the aggregator tells
    another length. Where it `is_blocking`,
    training waits for the updates. An aggregator that is away for `give_up_s` ends the run.
    """

    round_s: float
    wire: Wire = "int8"
    is_blocking: bool = False
    give_up_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Change:
    """What a fragment of the parameters is to move by, or to be."""

    fragment: int
    change_N: Tensor


@dataclass(slots=True)
class _Part:
    """One fragment on its way: its anchor, when it is due, and the exchange under way."""

    fragment: Fragment
    anchor_N: Tensor
    due_s: float
    number: int = -1
    n_tokens: float = 0.0
    sent: Sent | None = None
    """What counts in a round that is not over."""
    exchange: Future[Exchanged] | None = None


class Island:
    """One island.

    Args:
        rounds: The aggregator.
        name: This island's; the first of the run's names leads.
        fragments: The cut parameters, in training on this island.
        now_s: A clock that never goes back.
    """

    def __init__(
        self,
        rounds: Rounds,
        name: str,
        fragments: Sequence[Fragment],
        plan: IslandPlan,
        now_s: Callable[[], float],
    ) -> None:
        self._rounds, self.name, self._plan, self._now_s = rounds, name, plan, now_s
        now = now_s()
        # One after the other, spread over a round, so that the link is never idle or crowded.
        self._parts = [
            _Part(fragment, fragment.read(), now + plan.round_s * (place + 1) / len(fragments))
            for place, fragment in enumerate(fragments)
        ]
        self._exchanges = Exchanges(
            rounds, name, CODECS[plan.wire], len(fragments), plan.give_up_s, now_s
        )
        self._is_out = False
        self._line = 0
        self.round_s = plan.round_s
        self.n_joins = 0
        """How often it became a member."""
        self.n_rounds = 0
        """Updates that came, of all fragments together."""

    def join(self) -> list[Change]:
        """Become a member; returns what brings the parameters to where the others are.

        Progress that was made on an anchor a few rounds old is kept.

        Raises:
            NotRunningError: the aggregator did not answer for too long.
            ConflictError: the others have another configuration.
        """
        assert not any(part.exchange for part in self._parts)
        newest = self._exchanges.patiently(self._join)
        self._is_out = False
        self.n_joins += 1
        changes = [self._caught_up(anchor) for anchor in newest]
        for part in self._parts:
            part.sent = None  # joining withdraws it
        return changes

    def _join(self) -> list[Anchor]:
        """In one go, or again from the start: it changes nothing here."""
        numbers = tuple(part.number for part in self._parts)
        sizes = tuple(part.fragment.size for part in self._parts)
        sums = tuple(checksum(part.anchor_N) for part in self._parts)
        joined = self._rounds.join(self.name, Standing(sizes, numbers, self._line, sums))
        for place in joined.send:
            part = self._parts[place]
            own = Anchor(place, max(part.number, 0), _FP32.encode(part.anchor_N))
            self._rounds.send(self.name, own)
        # Those that were sent too: of two that send the first it is one.
        return [self._rounds.fetch(self.name, place) for place in (*joined.send, *joined.fetch)]

    def _caught_up(self, newest: Anchor) -> Change:
        place, part = newest.fragment, self._parts[newest.fragment]
        anchor_N = _FP32.decode(newest.payload, part.fragment.size)
        if part.number >= 0 and newest.number - part.number <= _STALE_ROUNDS:
            change_N = anchor_N - part.anchor_N
            # The newest anchor has it in it already.
            if part.sent is not None and part.sent.counts_in < newest.number:
                change_N.sub_(part.sent.own_N)
                part.n_tokens -= part.sent.n_tokens
        else:
            change_N = anchor_N - part.fragment.read()
            part.n_tokens = 0.0
        part.anchor_N, part.number, part.sent = anchor_N, newest.number, None
        return Change(place, change_N)

    def lease(self, n_rows: int, n_done: int) -> Lease | None:
        """More rows; None where the island has to join again first.

        Raises:
            NotRunningError: the aggregator did not answer for too long.
        """
        try:
            lease = self._exchanges.patiently(lambda: self._rounds.lease(self.name, n_rows, n_done))
        except NotAMemberError:
            self._is_out = True
            return None
        self._line = max(self._line, lease.line)
        self.round_s = lease.round_s or self.round_s
        return lease

    @property
    def is_out(self) -> bool:
        """Whether it is to join again, once nothing is under way."""
        return self._is_out and not any(part.exchange for part in self._parts)

    def learned(self, n_tokens: float) -> None:
        """A step was taken, with so many tokens."""
        for part in self._parts:
            part.n_tokens += n_tokens

    def poll(self) -> list[Change]:
        """Between two steps: send what is due, and return what came, to be added at once.

        Raises:
            NotRunningError: the aggregator did not answer for too long.
            TrainingDivergedError: weights are not finite.
        """
        now_s = self._now_s()
        for place, part in enumerate(self._parts):
            is_due = part.sent is not None or now_s >= part.due_s
            if is_due and part.exchange is None and not self._is_out:
                self._send(place)
        return self._arrived(waits=self._plan.is_blocking)

    def wait(self, patience_s: float | None = None) -> list[Change]:
        """What is under way, when it has come; what takes longer stays under way."""
        under_way = [part.exchange for part in self._parts if part.exchange is not None]
        wait(under_way, patience_s)
        return self._arrived(waits=patience_s is None)

    def send_all(self) -> None:
        """Send all fragments, due or not, of which nothing is under way."""
        for place, part in enumerate(self._parts):
            if not self._is_out and part.exchange is None:
                self._send(place)

    def anchors(self) -> list[Change]:
        """The anchor itself: what the weights are to be at the end."""
        return [Change(place, part.anchor_N) for place, part in enumerate(self._parts)]

    def leave(self, n_done: int) -> None:
        """Go; the others wait no more. An aggregator that does not answer is not waited for."""
        try:
            self._rounds.leave(self.name, n_done)
        except (NotRunningError, NotAMemberError) as error:
            _log.info("left without a word island=%s reason=%s", self.name, error.message)

    def close(self) -> None:
        """End the threads."""
        self._exchanges.close()

    def _send(self, place: int) -> None:
        part = self._parts[place]
        if part.sent is not None:
            part.exchange = self._exchanges.follow(place, part.number, part.anchor_N, part.sent)
            return
        weight_N = part.fragment.read() if part.n_tokens else None
        part.exchange = self._exchanges.begin(
            place, part.number, part.anchor_N, weight_N, part.n_tokens
        )

    def _arrived(self, *, waits: bool) -> list[Change]:
        changes = []
        for place, part in enumerate(self._parts):
            if part.exchange is None or not (waits or part.exchange.done()):
                continue
            exchanged, part.exchange = part.exchange.result(), None
            part.sent = exchanged.sent
            if exchanged.change_N is None:
                self._is_out = True
                continue
            self._took(part, exchanged)
            changes.append(Change(place, exchanged.change_N))
        return changes

    def _took(self, part: _Part, exchanged: Exchanged) -> None:
        part.number += 1
        part.n_tokens -= exchanged.n_tokens
        self.n_rounds += 1
        if part.sent is None:
            part.due_s = self._now_s() + self.round_s
