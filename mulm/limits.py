"""How much at a time: rates by the generic cell rate algorithm, and places.

Held by each ingress (`serve_app.limiter`), which is granted a part of each limit by the owner of
all limits (`mulm.limits_leases`). Time is passed in. Invariants: whatever is asked, in any time of
t seconds no more is let through than a minute's worth at once and the rate times t (and once the
excess of one request that asks more than a minute's worth); what is refused costs nothing.
"""

from __future__ import annotations

PERIOD_S = 60.0
"""Limits are told by the minute, and a minute's worth may come at once."""

_SLACK_S = 1e-9
"""What rounding may hide: a moment."""

_LEAST_PER_MINUTE = 1e-6


class Gcra:
    """One rate: a bucket of a minute's worth that fills steadily, as one number.

    The number is the theoretical arrival time (ITU-T I.371): when the bucket will be full again. It
    never has to be refilled by anybody, and a request costs a few additions.

    Args:
        per_minute: Units that flow into it in a minute, and that it holds.
    """

    __slots__ = ("_full_s", "per_minute")

    def __init__(self, per_minute: float) -> None:
        self.per_minute = max(per_minute, _LEAST_PER_MINUTE)
        self._full_s = float("-inf")

    def left(self, now_s: float) -> float:
        """Units that may be taken at once; below zero after a request of more than it holds."""
        return (PERIOD_S - self.reset_s(now_s)) * self.per_minute / PERIOD_S

    def reset_s(self, now_s: float) -> float:
        """Seconds until it is full."""
        return max(0.0, self._full_s - now_s)

    def wait_s(self, now_s: float, units: float) -> float:
        """Seconds until so many may be taken, 0 for now; of more than it holds, when it is full."""
        needed_s = min(units / self.per_minute, 1.0) * PERIOD_S
        wait_s = self.reset_s(now_s) + needed_s - PERIOD_S
        return wait_s if wait_s > _SLACK_S else 0.0

    def take(self, now_s: float, units: float) -> None:
        """Take what `wait_s` allows."""
        self._full_s = max(self._full_s, now_s) + units / self.per_minute * PERIOD_S

    def give_back(self, units: float) -> None:
        """Of what was taken, what was not used."""
        self._full_s -= units / self.per_minute * PERIOD_S

    def change(self, now_s: float, per_minute: float) -> None:
        """Go on at another rate, with what is left: more room is not filled at once."""
        left = self.left(now_s)
        self.per_minute = max(per_minute, _LEAST_PER_MINUTE)
        left = min(left, self.per_minute)
        self._full_s = now_s + PERIOD_S - left / self.per_minute * PERIOD_S


class Places:
    """How many at the same time.

    Args:
        n_places: As many as that.
    """

    __slots__ = ("n_places", "n_taken")

    def __init__(self, n_places: int) -> None:
        self.n_places = n_places
        self.n_taken = 0

    def is_free(self) -> bool:
        """Whether one is."""
        return self.n_taken < self.n_places

    def take(self) -> None:
        """Take one that is free."""
        self.n_taken += 1

    def leave(self) -> None:
        """Leave one that was taken."""
        assert self.n_taken > 0
        self.n_taken -= 1
