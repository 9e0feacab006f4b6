"""How much one ingress lets through: of each key, and of all together.

Asked by `serve_app.limits_middleware` for each request and by the routes that have a model answer.
Everything is decided here and now, by numbers in memory; with other ingresses beside this one, by
the part of each limit that this one was granted last (`serve_app.limits_renewal`). Invariants:
what is refused costs nothing; what a request reserved and did not use is given back when it ends,
however it ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mulm.accounts import NO_RATES, Key, Rates
from mulm.errors import NotRunningError, QuotaError, RateLimitedError
from mulm.limits import PERIOD_S, Gcra, Places
from mulm.limits_leases import Ask, Grants
from serve_app.usage_writer import UsageWriter

_EVERYBODY = ""
"""Whose the limits of the whole server are."""

_IDLE_S = 2 * PERIOD_S
"""A bucket that nobody used for so long is full, and need not be kept."""

_FADING = 0.7
"""How much of what was wanted is still thought to be wanted a second later."""


@dataclass(slots=True)
class _Rate:
    """One limit by the minute."""

    owner: str
    what: str
    limit: int
    gcra: Gcra
    used_s: float
    asked: float = 0.0
    wanted_per_minute: float = 0.0
    limit_asked_for: int = 0
    """What the limit was when its owner was asked last: what is granted is a part of that."""

    def ask(self, passed_s: float) -> Ask:
        """What the owner of the limit is asked for."""
        now_wanted = self.asked * PERIOD_S / passed_s
        self.wanted_per_minute = max(now_wanted, _FADING * self.wanted_per_minute)
        self.asked = 0.0
        self.limit_asked_for = self.limit
        return Ask(self.limit, self.wanted_per_minute, holds=self.gcra.per_minute)

    def have(self, amount: float, now_s: float) -> None:
        """Go on with another part of the limit."""
        self.gcra.change(now_s, amount)

    def follow(self, limit: int, now_s: float) -> None:
        """Go on under another limit: what was used stays used, and that alone is no debt."""
        left, before = self.gcra.left(now_s), self.gcra.per_minute
        self.gcra.change(now_s, before * limit / self.limit)
        wanted = max(left + self.gcra.per_minute - before, min(left, 0.0))
        self.gcra.give_back(wanted - self.gcra.left(now_s))
        self.limit = limit


@dataclass(slots=True)
class _Room:
    """One limit of requests at the same time."""

    owner: str
    limit: int
    places: Places
    used_s: float
    n_refused: int = 0
    limit_asked_for: int = 0
    """As `_Rate.limit_asked_for`."""

    def ask(self, _passed_s: float) -> Ask:
        """What the owner of the limit is asked for."""
        taken, refused = self.places.n_taken, self.n_refused
        self.n_refused = 0
        self.limit_asked_for = self.limit
        return Ask(
            self.limit, taken + refused, in_use=taken, holds=self.places.n_places, is_whole=True
        )

    def have(self, amount: float, _now_s: float) -> None:
        """Go on with another part of the limit."""
        self.places.n_places = int(amount)

    def follow(self, limit: int, _now_s: float) -> None:
        """Go on under another limit."""
        self.places.n_places = math.ceil(self.places.n_places * limit / self.limit)
        self.limit = limit


class Limiter:
    """The limits of one ingress.

    Args:
        usage: Counts what is used, and knows what was.
        rates: Of the whole server.
        clock: Seconds.
        n_holders: Ingresses that share the limits, whoever of them has asked for one yet.
    """

    def __init__(
        self,
        usage: UsageWriter,
        rates: Rates = NO_RATES,
        clock: Callable[[], float] = time.monotonic,
        n_holders: int = 1,
    ) -> None:
        self.usage = usage
        self._server_rates, self._clock = rates, clock
        self._rates: dict[str, _Rate] = {}
        self._rooms: dict[str, _Room] = {}
        self._n_holders = self._n_planned = n_holders
        self._asked_s = clock()
        self.reserved: dict[str, int] = {}
        """Tokens of running requests by key."""

    def admit(self, key: Key) -> Ticket:
        """Let a request in.

        Args:
            key: As it is by now. A request that is under way has the key as it was, so its limits
                are followed here and nowhere else.

        Raises:
            RateLimitedError: there were too many within a minute.
        """
        self._follow(key)
        ticket = Ticket(self, key)
        self.take(self.rates_of(key, "requests"), 1)
        return ticket

    def rates_of(self, key: Key, what: str) -> list[_Rate]:
        """The limits of requests or of tokens that a key's requests must keep; the key's first."""
        found = []
        for owner, rates in ((key.id, key.limits), (_EVERYBODY, self._server_rates)):
            limit = rates.requests_per_minute if what == "requests" else rates.tokens_per_minute
            if limit is not None:
                found.append(self._rate(owner, what, limit))
        return found

    def rooms_of(self, key: Key) -> list[_Room]:
        """The limits of requests at the same time that a key's requests must keep."""
        return [
            self._room(owner, rates.max_concurrent)
            for owner, rates in ((key.id, key.limits), (_EVERYBODY, self._server_rates))
            if rates.max_concurrent is not None
        ]

    def take(self, rates: list[_Rate], units: int) -> None:
        """Take from all of them, or from none. Raises RateLimitedError."""
        now_s = self._clock()
        late, wait_s = None, 0.0
        for rate in rates:
            rate.asked += units
            if (needed_s := rate.gcra.wait_s(now_s, units)) > wait_s:
                late, wait_s = rate, needed_s
        if late is not None:
            left = max(0, math.floor(late.gcra.left(now_s)))
            raise RateLimitedError(
                f"{_whose(late.owner)} limit of {late.limit} {late.what} a minute leaves {left}"
                f" now: too few for {units}",
                hint=f"try again in {max(1, math.ceil(wait_s))} s",
                retry_after_s=wait_s,
            )
        for rate in rates:
            rate.gcra.take(now_s, units)

    def require_place(self, rooms: list[_Room]) -> None:
        """Raises RateLimitedError where one of them is full."""
        for room in rooms:
            if not room.places.is_free():
                room.n_refused += 1
                raise RateLimitedError(
                    f"{_whose(room.owner)} limit of {room.limit} requests at the same time"
                    " is reached",
                    hint="try again when one has ended",
                    retry_after_s=1.0,
                )

    def require_quota(self, key: Key, n_tokens: int) -> None:
        """Refuse what would exceed a key's tokens in all.

        Raises:
            QuotaError: it would.
            NotRunningError: nobody knows yet what was used before.
        """
        quota = key.limits.token_quota
        if quota is None:
            return
        spent = self.usage.spent(key.id)
        if spent is None:
            raise NotRunningError("what the key has used is not known yet", hint="try again")
        left = quota - spent - self.reserved.get(key.id, 0)
        if n_tokens > left:
            raise QuotaError(
                f"of the key's {quota} tokens {max(0, left)} are left, and {n_tokens} were asked"
                " for, prompt and answer together",
                hint="ask for fewer with max_tokens" if left > 0 else "its owner can be given more",
            )

    def headers(self, key: Key) -> Iterator[tuple[str, str]]:
        """What is left of the limit that is nearest, as OpenAI's clients read it."""
        now_s = self._clock()
        for what in ("requests", "tokens"):
            rates = self.rates_of(key, what)
            if rates:
                rate = min(rates, key=lambda each: each.gcra.left(now_s))
                left = max(0, math.floor(rate.gcra.left(now_s) + 1e-6))
                yield f"x-ratelimit-limit-{what}", str(rate.limit)
                yield f"x-ratelimit-remaining-{what}", str(left)
                yield f"x-ratelimit-reset-{what}", f"{rate.gcra.reset_s(now_s):.3f}s"

    def asks(self) -> dict[str, Ask]:
        """What to ask the owner of all limits for; clears away what is not used any more."""
        now_s = self._clock()
        passed_s, self._asked_s = max(now_s - self._asked_s, 1e-3), now_s
        for name, rate in list(self._rates.items()):
            if now_s - rate.used_s > _IDLE_S and not rate.gcra.reset_s(now_s):
                del self._rates[name]
        for name, room in list(self._rooms.items()):
            if now_s - room.used_s > _IDLE_S and not room.places.n_taken:
                del self._rooms[name]
        both: dict[str, _Rate | _Room] = {**self._rates, **self._rooms}
        return {name: limit.ask(passed_s) for name, limit in both.items()}

    def apply(self, grants: Grants) -> None:
        """Go on with what was granted."""
        now_s = self._clock()
        self._n_holders = max(grants.n_holders, self._n_planned)
        for name, amount in grants.amounts.items():
            limit = self._rates.get(name) or self._rooms.get(name)
            # Of what was changed meanwhile a part is granted with the next question.
            if limit is not None and limit.limit == limit.limit_asked_for:
                limit.have(amount, now_s)

    def _follow(self, key: Key) -> None:
        """Take over what has changed of a key's limits; those of the server never do."""
        limits, now_s = key.limits, self._clock()
        for known, limit in (
            (self._rates.get(f"{key.id}/requests"), limits.requests_per_minute),
            (self._rates.get(f"{key.id}/tokens"), limits.tokens_per_minute),
            (self._rooms.get(f"{key.id}/places"), limits.max_concurrent),
        ):
            if known is not None and limit is not None and known.limit != limit:
                known.follow(limit, now_s)

    def _rate(self, owner: str, what: str, limit: int) -> _Rate:
        now_s, name = self._clock(), f"{owner}/{what}"
        found = self._rates.get(name)
        if found is None:  # until it is granted something: its part among equals
            gcra = Gcra(limit / self._n_holders)
            found = self._rates[name] = _Rate(owner, what, limit, gcra, now_s)
        found.used_s = now_s
        return found

    def _room(self, owner: str, limit: int) -> _Room:
        now_s, name = self._clock(), f"{owner}/places"
        found = self._rooms.get(name)
        if found is None:
            places = Places(max(1, limit // self._n_holders))
            found = self._rooms[name] = _Room(owner, limit, places, now_s)
        found.used_s = now_s
        return found


@dataclass(slots=True)
class Ticket:
    """One request that was let in: what it has reserved, and what it has used so far."""

    _limiter: Limiter
    _key: Key
    _model: str = ""
    _n_reserved: int = 0
    _n_input: int = 0
    _n_output: int = 0
    _rates: list[_Rate] = field(default_factory=list)
    _rooms: list[_Room] = field(default_factory=list)

    def reserve(self, model: str, n_tokens: int) -> None:
        """Before a model is asked: a place, and the most that prompt and answer can have.

        Raises:
            RateLimitedError: too much within a minute, or at the same time.
            QuotaError: the key's tokens do not suffice.
        """
        assert not self._model, "a request asks one model once"
        limiter, key = self._limiter, self._key
        limiter.require_quota(key, n_tokens)
        rates, rooms = limiter.rates_of(key, "tokens"), limiter.rooms_of(key)
        limiter.require_place(rooms)
        limiter.take(rates, n_tokens)
        for room in rooms:
            room.places.take()
        limiter.reserved[key.id] = limiter.reserved.get(key.id, 0) + n_tokens
        self._rates, self._rooms, self._model, self._n_reserved = rates, rooms, model, n_tokens

    def spend(self, n_input: int, n_output: int) -> None:
        """Tokens that a model has read or written."""
        self._n_input += n_input
        self._n_output += n_output

    def close(self) -> None:
        """The request has ended: leave its place, give back what it did not use."""
        if not self._model:
            return
        limiter, key, n_used = self._limiter, self._key, self._n_input + self._n_output
        for room in self._rooms:
            room.places.leave()
        for rate in self._rates:
            rate.gcra.give_back(self._n_reserved - n_used)
        limiter.reserved[key.id] -= self._n_reserved
        if not limiter.reserved[key.id]:
            del limiter.reserved[key.id]
        if n_used:
            limiter.usage.note(key.id, self._model, self._n_input, self._n_output)
        self._model = ""


def _whose(owner: str) -> str:
    return "the key's" if owner else "the server's"
