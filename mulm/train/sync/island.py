"""An island's side of the rounds: its anchor, what it has sent, and what came back.

Owned by `DilocoSync` on worker 0 of an island; `poll` is called between two steps, in the training
loop's thread, and threads of this module talk meanwhile. Invariants: the anchor is bit for bit the
aggregator's public one; weights minus anchor is all that this island has learned and that is in no
update yet, so progress that came late, was rounded away or was made while talking goes with the
next round; parameters are touched by the training loop's thread alone. Shape letters: N numbers of
a fragment.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from mulm.errors import NotRunningError
from mulm.train.sync.codec import Wire
from mulm.train.sync.codecs import CODECS
from mulm.train.sync.fragment import Fragment
from mulm.train.sync.rounds import Anchor, Lease, NotAMemberError, Offer, Rounds, Standing

_log = logging.getLogger(__name__)

_TAKE_S = 5.0
"""One question for an update waits so long."""
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.2, 5.0
_STALE_ROUNDS = 4
"""Progress from an anchor that is older is not worth adding to a newer one."""
_FP32 = CODECS["fp32"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IslandPlan:
    """How an island takes part.

    A round of a fragment is sent `round_s` after its last update came. Where it `is_blocking`,
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
    sent_tokens: float = 0.0
    exchange: Future[_Exchanged] | None = None


@dataclass(frozen=True, slots=True)
class _Exchanged:
    """The update, and what of it was this island's own; without one the island has to join."""

    update_N: Tensor | None
    own_N: Tensor | None = None


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
        self._codec = CODECS[plan.wire]
        now = now_s()
        # One after the other, spread over a round, so that the link is never idle or crowded.
        self._parts = [
            _Part(fragment, fragment.read(), now + plan.round_s * (place + 1) / len(fragments))
            for place, fragment in enumerate(fragments)
        ]
        self._pool = ThreadPoolExecutor(len(fragments) + 1, thread_name_prefix="island")
        self._ending = threading.Event()
        self._is_out = False
        self._line = 0
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
        newest = self._patiently(self._join)
        self._is_out = False
        self.n_joins += 1
        return [self._caught_up(anchor) for anchor in newest]

    def _join(self) -> list[Anchor]:
        """In one go, or again from the start: it changes nothing here."""
        numbers = tuple(part.number for part in self._parts)
        sizes = tuple(part.fragment.size for part in self._parts)
        joined = self._rounds.join(self.name, Standing(sizes, numbers, self._line))
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
        else:
            change_N = anchor_N - part.fragment.read()
            part.n_tokens = 0.0
        part.anchor_N, part.number = anchor_N, newest.number
        return Change(place, change_N)

    def lease(self, n_rows: int, n_done: int) -> Lease | None:
        """More rows; None where the island has to join again first.

        Raises:
            NotRunningError: the aggregator did not answer for too long.
        """
        try:
            lease = self._patiently(lambda: self._rounds.lease(self.name, n_rows, n_done))
        except NotAMemberError:
            self._is_out = True
            return None
        self._line = max(self._line, lease.line)
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
            if part.exchange is None and now_s >= part.due_s and not self._is_out:
                self._send(place)
        return self._arrived(waits=self._plan.is_blocking)

    def wait(self) -> list[Change]:
        """What is under way, when it has come."""
        return self._arrived(waits=True)

    def send_all(self) -> None:
        """Send all fragments, due or not; nothing is under way."""
        for place in range(len(self._parts)):
            if not self._is_out:
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
        self._ending.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _send(self, place: int) -> None:
        part = self._parts[place]
        # Without tokens of its own it has nothing to say, but the others need not wait.
        progress_N = torch.zeros(part.fragment.size)
        if part.n_tokens:
            progress_N = part.fragment.read().sub_(part.anchor_N)
        part.sent_tokens = part.n_tokens
        part.exchange = self._pool.submit(
            self._exchange, place, part.number, progress_N, part.n_tokens
        )

    def _exchange(self, place: int, number: int, progress_N: Tensor, n_tokens: float) -> _Exchanged:
        """In a thread: give progress, wait for the update."""
        payload = self._codec.encode(progress_N)
        offer = Offer(self.name, place, number, n_tokens, payload)
        try:
            self._patiently(lambda: self._rounds.offer(offer))
            while True:
                update = self._patiently(
                    lambda: self._rounds.take(self.name, place, number, _TAKE_S)
                )
                if update is not None:
                    break
                if self._ending.is_set():
                    raise NotRunningError("the island ends")
        except NotAMemberError:
            return _Exchanged(None)
        update_N = self._codec.decode(update.payload, progress_N.numel())
        is_ours = self.name in update.islands
        return _Exchanged(update_N, self._codec.decode(payload, len(update_N)) if is_ours else None)

    def _arrived(self, *, waits: bool) -> list[Change]:
        changes = []
        for place, part in enumerate(self._parts):
            if part.exchange is None or not (waits or part.exchange.done()):
                continue
            exchanged, part.exchange = part.exchange.result(), None
            if exchanged.update_N is None:
                self._is_out = True
                continue
            changes.append(self._taken(place, exchanged.update_N, exchanged.own_N))
        return changes

    def _taken(self, place: int, update_N: Tensor, own_N: Tensor | None) -> Change:
        part = self._parts[place]
        part.anchor_N.add_(update_N)
        part.number += 1
        part.due_s = self._now_s() + self._plan.round_s
        self.n_rounds += 1
        if own_N is None:
            return Change(place, update_N)
        part.n_tokens -= part.sent_tokens
        return Change(place, update_N - own_N)

    def _patiently(self, call: Callable[[], T]) -> T:
        """Call again where nobody answers, for as long as the plan's patience."""
        until_s, pause_s = self._now_s() + self._plan.give_up_s, _FIRST_RETRY_S
        while True:
            try:
                return call()
            except NotRunningError as error:
                if self._now_s() > until_s or self._ending.wait(pause_s):
                    raise
                _log.info("the aggregator does not answer reason=%s", error.message)
                pause_s = min(2 * pause_s, _LONGEST_RETRY_S)
