"""Who of several holds how much of a limit.

Kept by the owner of all limits (`actors.limiter`), asked every second by each ingress. Pure: the
time is passed in. Invariants: what is held by all together is never more than the limit; what
is lowered for one is given to another only after the one was told; who is silent for `LEASE_S`
holds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

RENEWAL_S = 1.0
"""How often each asks."""

LEASE_S = 10.0
_LEARNING_S = 3 * RENEWAL_S
_FLOOR = 0.02
"""The part of a rate that is kept for each who asks for nothing, so that it can begin at once."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What one holder would like of one limit."""

    limit: float
    """The whole."""
    wanted: float
    """As much as was asked of the holder."""
    in_use: float = 0.0
    """What cannot be taken back now."""
    holds: float = math.inf
    """What the holder has until it is granted anew."""
    is_whole: bool = False
    """Whether it is places, which cannot be split."""


@dataclass(frozen=True, slots=True)
class Grants:
    """What a holder has from now on."""

    n_holders: int
    amounts: dict[str, float]
    """By the name of the limit."""


@dataclass(slots=True)
class _Held:
    wanted: float
    amount: float


class LeaseBook:
    """Who holds what, by limit and holder.

    Args:
        now_s: When it begins, knowing nothing: until all have asked, nobody is granted more than
            it has.
    """

    def __init__(self, now_s: float) -> None:
        self._begun_s = now_s
        self._seen_s: dict[str, float] = {}
        self._held: dict[str, dict[str, _Held]] = {}

    def renew(self, holder: str, now_s: float, asks: Mapping[str, Ask]) -> Grants:
        """Grant a holder its part of each limit that it asks for; it gives up all others."""
        self._seen_s[holder] = now_s
        self._forget_silent(now_s)
        for name in [name for name, held in self._held.items() if holder in held]:
            if name not in asks:
                self._give_up(name, holder)
        is_new = now_s - self._begun_s < _LEARNING_S
        amounts = {name: self._grant(name, holder, ask, is_new) for name, ask in asks.items()}
        return Grants(len(self._seen_s), amounts)

    def leave(self, holder: str) -> None:
        """Hold nothing any more."""
        self._seen_s.pop(holder, None)
        for name in list(self._held):
            self._give_up(name, holder)

    def _forget_silent(self, now_s: float) -> None:
        for holder, seen_s in list(self._seen_s.items()):
            if now_s - seen_s > LEASE_S:
                self.leave(holder)

    def _give_up(self, name: str, holder: str) -> None:
        self._held[name].pop(holder, None)
        if not self._held[name]:
            del self._held[name]

    def _grant(self, name: str, holder: str, ask: Ask, is_new: bool) -> float:
        held = self._held.setdefault(name, {})
        wanted = {other: held[other].wanted if other in held else 0.0 for other in self._seen_s}
        share = fair_shares(ask.limit, wanted | {holder: ask.wanted}, ask.is_whole)[holder]
        free = ask.limit - sum(each.amount for other, each in held.items() if other != holder)
        amount = max(0.0, min(share, free, ask.holds if is_new else math.inf))
        held[holder] = _Held(ask.wanted, max(amount, ask.in_use))
        return amount


def fair_shares(
    limit: float, wanted: Mapping[str, float], is_whole: bool = False
) -> dict[str, float]:
    """Max-min fair parts of a limit: nobody has less so that another has more than he wants.

    What nobody wants is spread evenly.
    """
    least = 0.0 if is_whole else _FLOOR * limit
    shares: dict[str, float] = {}
    left = limit
    todo = sorted(wanted, key=lambda name: (wanted[name], name))
    for place, name in enumerate(todo):
        shares[name] = min(max(wanted[name], least), left / (len(todo) - place))
        left -= shares[name]
    shares = {name: share + left / len(shares) for name, share in shares.items()}
    return _in_wholes(shares) if is_whole else shares


def _in_wholes(shares: Mapping[str, float]) -> dict[str, float]:
    """The same in whole numbers, of the same sum: the largest rests are rounded up."""
    down = {name: math.floor(share + 1e-9) for name, share in shares.items()}
    n_left = round(sum(shares.values())) - sum(down.values())
    by_rest = sorted(shares, key=lambda name: (down[name] - shares[name], name))
    return {name: float(down[name] + (place < n_left)) for place, name in enumerate(by_rest)}
