"""One fragment of the anchor at the aggregator, and the round of it that is open.

Kept by `Aggregator`, under its lock. Invariants: the public anchor moves by exactly what an update
decodes to, and what the wire's rounding leaves out stays in the true anchor; an offer counts in one
round, however often it is said; one that comes late counts in the round that is open then; the sum
does not depend on the order in which offers came. Shape letters: N numbers of a fragment.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mulm.train.sync.codec import Codec
from mulm.train.sync.outer_step import OuterStep
from mulm.train.sync.rounds import Offer, Update, checksum

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
    updates: dict[int, Update] = field(default_factory=dict)
    _counted: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of each island: the number of its last offer that was counted, and the round that did."""
    _checksum: int | None = None
    """Of the public anchor, where somebody has asked since it moved."""
    _first_s: float = math.inf
    _quorum_s: float = math.inf

    def begin(self, anchor_N: Tensor, number: int, outer: OuterStep) -> None:
        """Take an anchor as it is; what was offered against an older one is dropped."""
        self.public_N, self.true_N = anchor_N.clone(), anchor_N.clone()
        if outer.has_momentum and self.momentum_N is None:
            self.momentum_N = torch.zeros_like(anchor_N)
        self.number = number
        self.updates = {}
        self._open()

    @property
    def checksum(self) -> int:
        """Of the public anchor; computed once a round at most, where islands join."""
        assert self.public_N is not None
        if self._checksum is None:
            self._checksum = checksum(self.public_N)
        return self._checksum

    def counts_in(self, offer: Offer) -> int:
        """The round that this offer counts in: one that has it already, or the open one."""
        number, round_number = self._counted.get(offer.island, (-1, -1))
        return round_number if number == offer.number else self.number

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
        if not self.offers:
            return False
        n_fresh = sum(offer.number == self.number for offer in self.offers.values())
        if n_fresh and len(self.offers) >= quorum * len(awaited | self.offers.keys()):
            self._quorum_s = min(self._quorum_s, now_s)
        return awaited <= self.offers.keys() or now_s >= self._quorum_s + grace_s

    def is_overdue(self, now_s: float, silence_s: float) -> bool:
        """Whether it was waited so long for a quorum that no more is to come."""
        return now_s >= self._first_s + silence_s

    def closes_s(self, grace_s: float, silence_s: float) -> float:
        """When the round closes at the latest, as far as is known now."""
        return min(self._quorum_s + grace_s, self._first_s + silence_s)

    def close(self, codec: Codec, outer: OuterStep) -> Update:
        """Move both anchors by what was offered."""
        assert self.true_N is not None
        assert self.public_N is not None
        # Where nobody learned anything, momentum alone must not move it.
        if any(offer.n_tokens for offer in self.offers.values()):
            outer.take(self.true_N, self._mean(codec), self.momentum_N)
        payload = codec.encode(self.true_N - self.public_N)
        self.public_N.add_(codec.decode(payload, self.size))
        update = Update(self.place, self.number, frozenset(self.offers), payload)
        self.updates[self.number] = update
        self.updates.pop(self.number - _KEPT_UPDATES, None)
        for island, offer in self.offers.items():
            self._counted[island] = offer.number, self.number
        self.number += 1
        self._open()
        return update

    def _mean(self, codec: Codec) -> Tensor:
        n_tokens = sum(offer.n_tokens for offer in self.offers.values())
        mean_N = torch.zeros(self.size)
        for _, offer in sorted(self.offers.items()):
            if offer.n_tokens:
                share = offer.n_tokens / n_tokens
                mean_N.add_(codec.decode(offer.payload, self.size), alpha=share)
        return mean_N

    def _open(self) -> None:
        self.offers, self._checksum = {}, None
        self._first_s = self._quorum_s = math.inf
