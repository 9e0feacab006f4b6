"""A round of a fragment that takes no more offers, and what it comes to.

Made by `AnchorPart` under the aggregator's lock, closed without it: the arithmetic of a round takes
as long as many questions of islands. Invariants: nothing that was given is changed, so others read
the anchors meanwhile; the public anchor moves by exactly what an update decodes to, and what the
wire's rounding leaves out stays in the true anchor; the sum does not depend on the order in which
offers came. Shape letters: N numbers of a fragment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mulm.train.sync.codec import Codec
from mulm.train.sync.outer_step import OuterStep
from mulm.train.sync.rounds import Offer, Update


@dataclass(frozen=True, slots=True)
class ClosedRound:
    """An update, and where it leads."""

    update: Update
    true_N: Tensor
    public_N: Tensor
    momentum_N: Tensor | None


@dataclass(frozen=True, slots=True)
class SealedRound:
    """The round `number` of a fragment: its offers, and the anchors that it begins with."""

    place: int
    number: int
    offers: Mapping[str, Offer]
    true_N: Tensor
    public_N: Tensor
    momentum_N: Tensor | None

    def has(self, offer: Offer) -> bool:
        """Whether the offer is one of these, said again."""
        given = self.offers.get(offer.island)
        return given is not None and given.number == offer.number

    def close(self, codec: Codec, outer: OuterStep) -> ClosedRound:
        """Move both anchors by what was offered.

        Raises:
            TrainingDivergedError: the islands' progress adds up to what is not finite.
        """
        true_N, momentum_N = self.true_N.clone(), self.momentum_N
        # Where nobody learned anything, momentum alone must not move it.
        if any(offer.n_tokens for offer in self.offers.values()):
            momentum_N = None if momentum_N is None else momentum_N.clone()
            outer.take(true_N, self._mean(codec), momentum_N)
        payload = codec.encode(true_N - self.public_N)
        public_N = self.public_N + codec.decode(payload, self.public_N.numel())
        update = Update(self.place, self.number, frozenset(self.offers), payload)
        return ClosedRound(update, true_N, public_N, momentum_N)

    def _mean(self, codec: Codec) -> Tensor:
        n_tokens = sum(offer.n_tokens for offer in self.offers.values())
        mean_N = torch.zeros_like(self.true_N)
        for _, offer in sorted(self.offers.items()):
            if offer.n_tokens:
                share = offer.n_tokens / n_tokens
                mean_N.add_(codec.decode(offer.payload, mean_N.numel()), alpha=share)
        return mean_N
