"""The aggregator: keeps the anchor, gathers the islands' progress, and closes rounds.

One per run, kept by `outer_host` (`transport_tcp` serves it to islands elsewhere); a plain object
that many threads call. Invariants: a round of a fragment is closed when all members gave, when a
quorum gave and the grace is over, or at the latest `silence_s` after its first offer, so no island
waits for ever; what is told to it is checked before it changes anything; what takes the time of
many questions (closing, encoding, checksums) is done without the lock. It may die at any moment:
started again, it takes anchors that are newer than what it kept from the islands. Shape letters: N
numbers of a fragment.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, isfinite

from mulm.errors import ConflictError, CorruptError, NotRunningError
from mulm.train.sync.anchor_part import AnchorPart
from mulm.train.sync.codec import Wire
from mulm.train.sync.codecs import CODECS
from mulm.train.sync.leases import Leases
from mulm.train.sync.membership import Membership
from mulm.train.sync.outer_step import OuterStep
from mulm.train.sync.rounds import (
    Anchor,
    Joined,
    Lease,
    NotAMemberError,
    Offer,
    Standing,
    Update,
)

_CLOSING_S = 5.0
"""Well under the time for which an island waits for an answer."""
_UNKNOWN_SIZE = 1 << 29
"""Weights of a fragment at most, before an island has told how many there are."""


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What all islands of a run share: the line of `n_rows`, a multiple of `granule`.

    A round closes when all members gave, or `grace_s` after a part `quorum` of them has given, or
    `silence_s` after the first. A member that misses rounds and was silent for `silence_s` is
    waited for no more.
    """

    n_rows: int
    granule: int
    wire: Wire = "int8"
    outer: OuterStep = field(default_factory=OuterStep)
    quorum: float = 0.5
    grace_s: float = 2.0
    silence_s: float = 30.0
    first_row: int = 0
    """Of the line: what is before it was done in another way."""


class Aggregator:
    """`Rounds` in this process.

    Args:
        plan: The same for the run's whole life.
        now_s: A clock that never goes back.
        keep: Told what rows are given, before an island is; it may write that down.
    """

    def __init__(
        self,
        plan: RoundPlan,
        now_s: Callable[[], float] = time.monotonic,
        keep: Callable[[dict[str, Any]], None] = lambda rows: None,  # noqa: ARG005
    ) -> None:
        self.plan, self._now_s, self._keep = plan, now_s, keep
        self._codec = CODECS[plan.wire]
        self._members = Membership(plan.silence_s)
        self._leases = Leases(plan.n_rows, plan.granule, plan.first_row)
        self.round_s = 0.0
        """How long rounds are to last, which islands are told; 0 where each knows."""
        self._later_rows: dict[str, Any] | None = None
        self._absent_leader, self._absent_until_s = "", 0.0
        self._parts: list[AnchorPart] = []
        self._changed = threading.Condition()

    def join(self, island: str, standing: Standing) -> Joined:
        """See `Rounds.join`."""
        with self._changed:
            self._wait_for_closings()
        if standing.sums:
            self._sum_up()
        with self._changed:
            self._wait_for_closings()
            self._require_sizes(standing)
            self._members.join(island, [part.number for part in self._parts], self._now_s())
            if standing.rounds and self._later_rows is not None:
                self._leases.restore(self._later_rows)
            self._later_rows = None
            self._leases.free(island)
            self._leases.skip_to(standing.line)
            rounds = standing.rounds or (-1,) * len(self._parts)
            sums = standing.sums or (None,) * len(self._parts)
            send, fetch = [], []
            for part, number, own_sum in zip(self._parts, rounds, sums, strict=True):
                part.withdraw(island)
                if part.public_N is None or number > part.number:
                    send.append(part.place)
                elif number < part.number or own_sum not in (None, part.checksum):
                    fetch.append(part.place)
            self._changed.notify_all()
            return Joined(tuple(send), tuple(fetch))

    def send(self, island: str, anchor: Anchor) -> None:
        """See `Rounds.send`."""
        part = self._part(anchor.fragment)
        anchor_N = CODECS["fp32"].decode(anchor.payload, part.size).clone()
        _require_finite(anchor_N)
        with self._changed:
            self._hear(island)
            if part.public_N is None or anchor.number > part.number:
                part.begin(anchor_N, anchor.number, self.plan.outer)
                self._changed.notify_all()

    def fetch(self, island: str, fragment: int) -> Anchor:
        """See `Rounds.fetch`."""
        part = self._part(fragment)
        with self._changed:
            self._hear(island)
            if part.public_N is None:
                raise NotAMemberError("the first island has not sent its weights yet")
            number, public_N = part.number, part.public_N
        return Anchor(fragment, number, CODECS["fp32"].encode(public_N))

    def lease(self, island: str, n_rows: int, n_done: int) -> Lease:
        """See `Rounds.lease`."""
        with self._changed:
            self._hear(island)
            self._leases.done(island, n_done)
            given = self._leases.give(island, n_rows, len(self._members))
            leader = self._leader()
            self._keep({**self._leases.state(), "leader": leader})
            n_islands = len(self._members)
            return replace(given, n_islands=n_islands, leader=leader, round_s=self.round_s)

    def offer(self, offer: Offer) -> int:
        """See `Rounds.offer`."""
        part = self._part(offer.fragment)
        if not 0 <= offer.n_tokens < math.inf:
            raise CorruptError(f"progress of {offer.n_tokens} tokens")
        _require_finite(self._codec.decode(offer.payload, part.size))
        with self._changed:
            self._hear(offer.island)
            if offer.number > part.number or part.public_N is None:
                raise NotAMemberError("the island is ahead: it has to send its anchor")
            if offer.number < part.number and offer.number not in part.updates:
                raise NotAMemberError("the island is too far behind: it has to fetch the anchor")
            number = part.counts_in(offer)
            if number == part.open_number:
                part.take(offer, self._now_s())
        self._close_if_due(part)
        return number

    def take(self, island: str, fragment: int, number: int, timeout_s: float) -> Update | None:
        """See `Rounds.take`."""
        deadline_s = self._now_s() + timeout_s
        part = self._part(fragment)
        while True:
            with self._changed:
                self._hear(island)
            self._close_if_due(part)
            with self._changed:
                self._hear(island)
                now_s = self._now_s()
                if part.number > number:
                    return _update(part, number)
                if now_s >= deadline_s:
                    return None
                closes_s = part.closes_s(self.plan.grace_s, self.plan.silence_s)
                self._changed.wait(max(0.001, min(deadline_s, closes_s) - now_s))

    def leave(self, island: str, n_done: int) -> None:
        """See `Rounds.leave`."""
        with self._changed:
            if island in self._members:
                self._leases.done(island, n_done)
            self._drop(island)
            self._members.leave(island)
            if island == self._absent_leader:
                self._absent_leader = ""
            leader = self._leader() if len(self._members) else ""
            self._keep({**self._leases.state(), "leader": leader})
            self._changed.notify_all()  # who waits in its name is to hear it
            parts = list(self._parts)
        for part in parts:
            self._close_if_due(part)

    @property
    def most_bytes(self) -> int:
        """What one call can bring: an anchor of a fragment.

        Before anybody has joined it is not known. What islands send of an earlier life must be
        heard all the same: else they are never told that they are to join.
        """
        return 4 * max((part.size for part in self._parts), default=_UNKNOWN_SIZE)

    @property
    def n_done(self) -> int:
        """Rows that are done."""
        with self._changed:
            return self._leases.n_done

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a later self needs, of one moment: tensors, and facts that JSON can hold.

        The tensors are not to be changed.
        """
        with self._changed:
            tensors = {
                f"{part.place}.{name}": value
                for part in self._parts
                for name in ("public", "true", "momentum")
                if (value := getattr(part, f"{name}_N")) is not None
            }
            numbers = [part.number for part in self._parts]
            sizes = [part.size for part in self._parts]
            return tensors, {"rounds": numbers, "sizes": sizes, "rows": self._leases.state()}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Go on from a `state`, before anybody has joined.

        Rows that were given and not done are free: who has them joins again, and is given them.
        """
        with self._changed:
            self._parts = [AnchorPart(n, int(size)) for n, size in enumerate(facts["sizes"])]
            for part, number in zip(self._parts, facts["rounds"], strict=True):
                if (public_N := tensors.get(f"{part.place}.public")) is None:
                    continue
                part.begin(public_N, int(number), self.plan.outer)
                part.true_N = tensors[f"{part.place}.true"]
                if self.plan.outer.has_momentum and f"{part.place}.momentum" in tensors:
                    part.momentum_N = tensors[f"{part.place}.momentum"]
            self._leases.restore(facts["rows"])

    def restore_rows(self, rows: dict[str, Any], leader: str = "") -> None:
        """Rows that were given later than the `state` that was restored, and who leads.

        Rows are taken if an island comes that has gone on since: else what they taught is lost with
        the weights, and they are given again. The leader is waited for, since it goes on leading.
        """
        with self._changed:
            self._later_rows, self._absent_leader = rows, leader
            self._absent_until_s = self._now_s() + self.plan.silence_s

    def _require_sizes(self, standing: Standing) -> None:
        """The first island says how parameters are cut."""
        sizes, own = standing.sizes, tuple(part.size for part in self._parts)
        counts = {len(standing.rounds), len(standing.sums)}
        if not counts <= {0, len(sizes)} or min(sizes, default=0) < 0:
            raise CorruptError("an island that stands nowhere")
        if not own:
            self._parts = [AnchorPart(place, size) for place, size in enumerate(sizes)]
        elif own != sizes:
            raise ConflictError(
                f"this island cuts its parameters into fragments of {sizes}, the others of {own}",
                hint="islands of a run have one configuration: that it began with",
            )

    def _leader(self) -> str:
        """The first member, unless one that led before has not come again yet."""
        if self._absent_leader in self._members or self._now_s() >= self._absent_until_s:
            self._absent_leader = ""
        return self._absent_leader or self._members.leader

    def _part(self, fragment: int) -> AnchorPart:
        if not 0 <= fragment < len(self._parts):
            raise NotAMemberError(f"nobody joined with a fragment {fragment} yet")
        return self._parts[fragment]

    def _hear(self, island: str) -> None:
        if island not in self._members:
            raise NotAMemberError(f"the island {island!r} is no member of the run")
        self._members.hear(island, self._now_s())

    def _drop(self, island: str) -> None:
        self._leases.free(island)
        for part in self._parts:
            part.forget(island)

    def _wait_for_closings(self) -> None:
        """For who joins: what an island gave to a round that is being closed is not withdrawn.

        Raises:
            NotRunningError: that takes too long; the island asks again.
        """
        if not self._changed.wait_for(self._is_nothing_sealed, _CLOSING_S):
            raise NotRunningError("the aggregator is closing rounds", hint="ask again")

    def _is_nothing_sealed(self) -> bool:
        return all(part.sealed is None for part in self._parts)

    def _sum_up(self) -> None:
        with self._changed:
            parts = [part for part in self._parts if part.public_N is not None]
        for part in parts:
            _ = part.checksum  # kept, for who asks under the lock

    def _close_if_due(self, part: AnchorPart) -> None:
        """Close rounds of a fragment for as long as one is due; called without the lock."""
        while True:
            with self._changed:
                if not self._is_due(part):
                    return
                sealed = part.seal()
            try:
                closed = sealed.close(self._codec, self.plan.outer)
            except BaseException:
                with self._changed:
                    part.unseal(sealed, self._now_s())
                    self._changed.notify_all()
                raise
            with self._changed:
                if part.move(sealed, closed):
                    self._part_closed(part.place, closed.update)
                self._changed.notify_all()

    def _is_due(self, part: AnchorPart) -> bool:
        awaited, now_s = self._members.awaited(part.place, part.number), self._now_s()
        is_due = part.is_due(awaited, now_s, self.plan.quorum, self.plan.grace_s)
        return is_due or part.is_overdue(now_s, self.plan.silence_s)

    def _part_closed(self, place: int, update: Update) -> None:
        given, now_s = set(update.islands), self._now_s()
        for name in self._members.closed(place, update.number, given, now_s):
            self._drop(name)


def _update(part: AnchorPart, number: int) -> Update:
    try:
        return part.updates[number]
    except KeyError:
        raise NotAMemberError(f"the update of round {number} is gone") from None


def _require_finite(x_N: Tensor) -> None:
    if not bool(isfinite(x_N).all()):
        raise CorruptError("numbers that are not finite")
