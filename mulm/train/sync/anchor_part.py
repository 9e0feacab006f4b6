"""One fragment of the anchor at the aggregator, and the round of it that is open.

Kept by `Aggregator`, under its lock. Invariants: anchors are replaced and never changed, so that
who has one may read it without the lock; an offer counts in one round, however often it is said;
one that comes late, or while its round is being closed, counts in the round that is open then.
Shape letters: N numbers of a fragment.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mulm.train.sync.outer_step import OuterStep
from mulm.train.sync.rounds import Offer, Update, checksum
from mulm.train.sync.sealed_round import ClosedRound, SealedRound

_KEPT_UPDATES = 3
"""An island may be one round behind, have come late to another, and ask twice."""


@dataclass(slots=True)
class AnchorPart:
    """A fragment of `size` numbers; it has no anchor before the first `begin`."""

    place: int
    size: int
    number: int = 0
    """How many rounds are closed."""
    true_N: Tensor | None = None
    public_N: Tensor | None = None
    momentum_N: Tensor | None = None
    offers: dict[str, Offer] = field(default_factory=dict)
    """Of the open round, as they travelled: smaller than their sum."""
    sealed: SealedRound | None = None
    """The round before the open one, while somebody closes it."""
    updates: dict[int, Update] = field(default_factory=dict)
    _counted: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of each island: the number of its last offer that was counted, and the round that did."""
    _checksum: tuple[Tensor, int] | None = None
    """Of a public anchor, where somebody has asked."""
    _first_s: float = math.inf
    _quorum_s: float = math.inf

    def begin(self, anchor_N: Tensor, number: int, outer: OuterStep) -> None:
        """Take an anchor as it is, for good; what was offered against an older one is dropped."""
        self.public_N = self.true_N = anchor_N
        if outer.has_momentum and self.momentum_N is None:
            self.momentum_N = torch.zeros_like(anchor_N)
        self.number, self.sealed = number, None
        self.updates = {}
        self._open()

    @property
    def checksum(self) -> int:
        """Of the public anchor; computed once a round at most, where islands join.

        It may be asked for without the lock, so that the answer is there when it is asked under it.
        """
        public_N, known = self.public_N, self._checksum
        assert public_N is not None
        if known is None or known[0] is not public_N:
            known = self._checksum = public_N, checksum(public_N)
        return known[1]

    @property
    def open_number(self) -> int:
        """Of the round that takes offers."""
        return self.number + (self.sealed is not None)

    def counts_in(self, offer: Offer) -> int:
        """The round that this offer counts in: one that has it already, or the open one."""
        if self.sealed is not None and self.sealed.has(offer):
            return self.sealed.number
        number, round_number = self._counted.get(offer.island, (-1, -1))
        return round_number if number == offer.number else self.open_number

    def take(self, offer: Offer, now_s: float) -> None:
        """Have it count in the open round."""
        self.offers[offer.island] = offer
        self._first_s = min(self._first_s, now_s)

    def withdraw(self, island: str) -> None:
        """The island does not know of its offer any more: it comes again, as a part of another."""
        self.offers.pop(island, None)

    def forget(self, island: str) -> None:
        """The island is gone; what it offered counts."""
        self._counted.pop(island, None)

    def is_due(self, awaited: Set[str], now_s: float, quorum: float, grace_s: float) -> bool:
        """Whether the round is to be closed now, with `awaited` members in it.

        Offers that came late for the round before don't begin the grace: their islands are not at
        the end of a round.
        """
        if not self.offers or self.sealed is not None:
            return False
        n_fresh = sum(offer.number == self.number for offer in self.offers.values())
        if n_fresh and len(self.offers) >= quorum * len(awaited | self.offers.keys()):
            self._quorum_s = min(self._quorum_s, now_s)
        return awaited <= self.offers.keys() or now_s >= self._quorum_s + grace_s

    def is_overdue(self, now_s: float, silence_s: float) -> bool:
        """Whether it was waited so long for a quorum that no more is to come."""
        return self.sealed is None and now_s >= self._first_s + silence_s

    def closes_s(self, grace_s: float, silence_s: float) -> float:
        """When the round closes at the latest, as far as is known now."""
        return min(self._quorum_s + grace_s, self._first_s + silence_s)

    def seal(self) -> SealedRound:
        """The open round takes no more offers: it is being closed, and the next one is open."""
        assert self.sealed is None
        assert self.true_N is not None
        assert self.public_N is not None
        self.sealed = SealedRound(
            self.place, self.number, self.offers, self.true_N, self.public_N, self.momentum_N
        )
        self._open()
        return self.sealed

    def unseal(self, sealed: SealedRound, now_s: float) -> None:
        """It could not be closed: its offers wait again, with those that came meanwhile."""
        if self.sealed is sealed:
            self.sealed, self.offers = None, {**self.offers, **sealed.offers}
            self._first_s = min(self._first_s, now_s)

    def move(self, sealed: SealedRound, closed: ClosedRound) -> bool:
        """Take what a round came to, unless an island has sent a newer anchor meanwhile."""
        if self.sealed is not sealed:
            return False
        self.sealed = None
        self.true_N, self.public_N = closed.true_N, closed.public_N
        self.momentum_N = closed.momentum_N
        self.updates[self.number] = closed.update
        self.updates.pop(self.number - _KEPT_UPDATES, None)
        for island, offer in sealed.offers.items():
            self._counted[island] = offer.number, self.number
        self.number += 1
        return True

    def _open(self) -> None:
        self.offers = {}
        self._first_s = self._quorum_s = math.inf
