"""The aggregator: keeps the anchor, gathers the islands' progress, and closes rounds.

One per run, hosted beside the head's ledger (`transport_tcp` serves it to islands elsewhere); a
plain object that many threads call. Invariants: the public anchor moves by exactly what its updates
decode to, so that it is bit for bit that of every island; what the wire's rounding leaves out stays
in the true anchor, and goes with the next update. It may die at any moment: started again, it takes
anchors that are newer than what it kept from the islands. Shape letters: N numbers of a fragment.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mulm.errors import ConflictError
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

_KEPT_UPDATES = 2
"""Of each fragment: an island may be one round behind, and ask twice."""


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What all islands of a run share: the line of `n_rows`, a multiple of `granule`.

    A round closes when all members gave, or `grace_s` after a part `quorum` of them has given.
    A member that misses rounds and was silent for `silence_s` is waited for no more.
    """

    n_rows: int
    granule: int
    wire: Wire = "int8"
    outer: OuterStep = field(default_factory=OuterStep)
    quorum: float = 0.5
    grace_s: float = 2.0
    silence_s: float = 30.0


@dataclass(slots=True)
class _Fragment:
    """One part of the anchor, and the round of it that is open."""

    size: int
    number: int = 0
    """How many rounds are closed."""
    true_N: Tensor | None = None
    public_N: Tensor | None = None
    momentum_N: Tensor | None = None
    gathered_N: Tensor | None = None
    n_tokens: float = 0.0
    given: set[str] = field(default_factory=set)
    quorum_s: float = math.inf
    """When enough islands had given."""
    updates: dict[int, Update] = field(default_factory=dict)


class Aggregator:
    """`Rounds` in this process.

    Args:
        plan: The same for the run's whole life.
        now_s: A clock that never goes back.
        line: The rows that were given before this object was made.
    """

    def __init__(
        self, plan: RoundPlan, now_s: Callable[[], float] = time.monotonic, line: int = 0
    ) -> None:
        self.plan, self._now_s = plan, now_s
        self._codec = CODECS[plan.wire]
        self._members = Membership(plan.silence_s)
        self._leases = Leases(plan.n_rows, plan.granule, line)
        self._fragments: list[_Fragment] = []
        self._changed = threading.Condition()

    def join(self, island: str, standing: Standing) -> Joined:
        """See `Rounds.join`."""
        with self._changed:
            self._require_sizes(standing.sizes)
            self._members.join(island, [f.number for f in self._fragments], self._now_s())
            self._leases.free(island)
            self._leases.skip_to(standing.line)
            rounds = standing.rounds or (-1,) * len(self._fragments)
            send, fetch = [], []
            for place, (fragment, number) in enumerate(zip(self._fragments, rounds, strict=True)):
                if fragment.public_N is None or number > fragment.number:
                    send.append(place)
                elif number < fragment.number:
                    fetch.append(place)
            return Joined(tuple(send), tuple(fetch))

    def send(self, island: str, anchor: Anchor) -> None:
        """See `Rounds.send`."""
        fragment = self._fragments[anchor.fragment]
        numbers_N = CODECS["fp32"].decode(anchor.payload, fragment.size)
        with self._changed:
            self._hear(island)
            if fragment.public_N is None or anchor.number > fragment.number:
                _begin(fragment, numbers_N, anchor.number, self.plan.outer)
                self._changed.notify_all()

    def fetch(self, island: str, fragment: int) -> Anchor:
        """See `Rounds.fetch`."""
        with self._changed:
            self._hear(island)
            kept = self._fragments[fragment]
            if kept.public_N is None:
                raise NotAMemberError("the first island has not sent its weights yet")
            number, copy_N = kept.number, kept.public_N.clone()
        return Anchor(fragment, number, CODECS["fp32"].encode(copy_N))

    def lease(self, island: str, n_rows: int, n_done: int) -> Lease:
        """See `Rounds.lease`."""
        with self._changed:
            self._hear(island)
            self._leases.done(island, n_done)
            given = self._leases.give(island, n_rows, len(self._members))
            return replace(given, n_islands=len(self._members), leader=self._members.leader)

    def offer(self, offer: Offer) -> bool:
        """See `Rounds.offer`."""
        fragment = self._fragments[offer.fragment]
        progress_N = self._codec.decode(offer.payload, fragment.size)
        with self._changed:
            self._hear(offer.island)
            if offer.number > fragment.number:
                raise NotAMemberError("the island is ahead: it has to send its anchor")
            if offer.number < fragment.number:
                return False
            if offer.island in fragment.given:
                return True  # said twice, as the answer was lost
            _gather(fragment, offer.n_tokens, progress_N)
            fragment.given.add(offer.island)
            self._close_if_due(offer.fragment)
            return True

    def take(self, island: str, fragment: int, number: int, timeout_s: float) -> Update | None:
        """See `Rounds.take`."""
        deadline_s = self._now_s() + timeout_s
        kept = self._fragments[fragment]
        with self._changed:
            self._hear(island)
            while True:
                self._close_if_due(fragment)
                if kept.number > number:
                    break
                left_s = deadline_s - self._now_s()
                if left_s <= 0:
                    return None
                grace_ends_s = kept.quorum_s + self.plan.grace_s
                self._changed.wait(max(0.001, min(left_s, grace_ends_s - self._now_s())))
                self._hear(island)
            try:
                return kept.updates[number]
            except KeyError:
                raise NotAMemberError(f"the update of round {number} is gone") from None

    def leave(self, island: str, n_done: int) -> None:
        """See `Rounds.leave`."""
        with self._changed:
            if island in self._members:
                self._leases.done(island, n_done)
            self._leases.free(island)
            self._members.leave(island)
            for place in range(len(self._fragments)):
                self._close_if_due(place)

    @property
    def most_bytes(self) -> int:
        """What one call can bring: an anchor of a fragment."""
        return 4 * max((fragment.size for fragment in self._fragments), default=0)

    @property
    def n_done(self) -> int:
        """Rows that are done."""
        with self._changed:
            return self._leases.n_done

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a later self needs: tensors, and facts that JSON can hold."""
        with self._changed:
            tensors = {}
            for place, fragment in enumerate(self._fragments):
                for name in ("public_N", "true_N", "momentum_N"):
                    value = getattr(fragment, name)
                    if value is not None:
                        tensors[f"{place}.{name[:-2]}"] = value.clone()
            rounds = [fragment.number for fragment in self._fragments]
            # What is not done is given again: after a stop its progress is nowhere.
            sizes = [fragment.size for fragment in self._fragments]
            return tensors, {"rounds": rounds, "sizes": sizes, "line": self._leases.n_done}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Go on from a `state`, before anybody has joined."""
        with self._changed:
            self._fragments = [_Fragment(int(size)) for size in facts["sizes"]]
            for place, fragment in enumerate(self._fragments):
                if (public_N := tensors.get(f"{place}.public")) is None:
                    continue
                _begin(fragment, public_N, int(facts["rounds"][place]), self.plan.outer)
                fragment.true_N = tensors[f"{place}.true"]
                if self.plan.outer.has_momentum and f"{place}.momentum" in tensors:
                    fragment.momentum_N = tensors[f"{place}.momentum"]
            granule = self.plan.granule
            self._leases.skip_to(int(facts["line"]) // granule * granule)

    def _require_sizes(self, sizes: tuple[int, ...]) -> None:
        """The first island says how parameters are cut."""
        if not self._fragments:
            self._fragments = [_Fragment(size) for size in sizes]
        own = tuple(fragment.size for fragment in self._fragments)
        if own != sizes:
            raise ConflictError(
                f"this island cuts its parameters into fragments of {sizes}, the others of {own}",
                hint="islands of a run have one configuration: that it began with",
            )

    def _hear(self, island: str) -> None:
        if island not in self._members:
            raise NotAMemberError(f"the island {island!r} is no member of the run")
        self._members.hear(island, self._now_s())

    def _close_if_due(self, place: int) -> None:
        fragment = self._fragments[place]
        awaited = self._members.awaited(place, fragment.number)
        if not fragment.given:
            return
        now_s = self._now_s()
        if len(fragment.given) >= self.plan.quorum * len(awaited | fragment.given):
            fragment.quorum_s = min(fragment.quorum_s, now_s)
        if awaited <= fragment.given or now_s >= fragment.quorum_s + self.plan.grace_s:
            self._close(place)

    def _close(self, place: int) -> None:
        fragment = self._fragments[place]
        assert fragment.gathered_N is not None
        assert fragment.true_N is not None
        assert fragment.public_N is not None
        mean_N = fragment.gathered_N.div_(max(fragment.n_tokens, 1e-9))
        self.plan.outer.take(fragment.true_N, mean_N, fragment.momentum_N)
        payload = self._codec.encode(fragment.true_N - fragment.public_N)
        fragment.public_N.add_(self._codec.decode(payload, fragment.size))
        number = fragment.number
        fragment.updates[number] = Update(place, number, frozenset(fragment.given), payload)
        fragment.updates.pop(number - _KEPT_UPDATES, None)
        for name in self._members.closed(place, number, fragment.given, self._now_s()):
            self._leases.free(name)
        fragment.number += 1
        fragment.gathered_N, fragment.n_tokens = None, 0.0
        fragment.given, fragment.quorum_s = set(), math.inf
        self._changed.notify_all()


def _begin(fragment: _Fragment, anchor_N: Tensor, number: int, outer: OuterStep) -> None:
    """Take an anchor as it is; what was gathered for an older one is dropped."""
    fragment.public_N, fragment.true_N = anchor_N.clone(), anchor_N.clone()
    if outer.has_momentum and fragment.momentum_N is None:
        fragment.momentum_N = torch.zeros_like(anchor_N)
    fragment.number = number
    fragment.gathered_N, fragment.n_tokens = None, 0.0
    fragment.given, fragment.quorum_s = set(), math.inf
    fragment.updates = {}


def _gather(fragment: _Fragment, n_tokens: float, progress_N: Tensor) -> None:
    if fragment.gathered_N is None:
        fragment.gathered_N = torch.zeros(fragment.size)
    fragment.gathered_N.add_(progress_N, alpha=n_tokens)
    fragment.n_tokens += n_tokens
