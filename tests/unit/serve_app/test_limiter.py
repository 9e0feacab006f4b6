"""Limits of one ingress, and of several under a clock of our own."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from actors.limiter import LimiterHost
from mulm.accounts import Key, KeyLimits, Rates
from mulm.errors import NotRunningError, QuotaError, RateLimitedError
from mulm.limits_leases import Grants
from serve_app.limiter import Limiter
from serve_app.usage_writer import UsageWriter


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def key_of(name: str = "key_1", **limits: int) -> Key:
    return Key(name, name, 0.0, "all", limits=KeyLimits(**limits))


def limiter_of(clock: Clock, rates: Rates | None = None, written: dict[str, int] | None = None):
    usage = UsageWriter(lambda *_: {})
    usage._written = written
    return Limiter(usage, rates or Rates(), clock)


def test_requests_within_a_minute_and_what_is_told_of_them(clock):
    limiter, key = limiter_of(clock), key_of(requests_per_minute=3)
    for left in (2, 1, 0):
        limiter.admit(key).close()
        headers = dict(limiter.headers(key))
        assert headers["x-ratelimit-limit-requests"] == "3"
        assert headers["x-ratelimit-remaining-requests"] == str(left)
    assert headers["x-ratelimit-reset-requests"] == "60.000s"
    with pytest.raises(RateLimitedError, match="the key's limit of 3 requests a minute") as caught:
        limiter.admit(key)
    assert caught.value.details["retry_after_s"] == pytest.approx(20.0)
    clock.now_s += 20.0
    limiter.admit(key)
    limiter.admit(key_of("key_2"))
    assert list(limiter.headers(key_of("key_2"))) == []


def test_of_several_ingresses_each_begins_with_its_part(clock):
    limiter = Limiter(UsageWriter(lambda *_: {}), clock=clock, n_holders=4)
    limiter.apply(Grants(1, {}))
    key = key_of(requests_per_minute=40)
    for _ in range(10):
        limiter.admit(key)
    with pytest.raises(RateLimitedError):
        limiter.admit(key)


def test_the_whole_servers_limit_holds_for_all_keys_together(clock):
    limiter = limiter_of(clock, Rates(requests_per_minute=4))
    strict = key_of("key_1", requests_per_minute=2)
    for _ in range(2):
        limiter.admit(strict)
    with pytest.raises(RateLimitedError, match="the key's"):
        limiter.admit(strict)
    for name in ("key_2", "key_3"):
        limiter.admit(key_of(name))
    with pytest.raises(RateLimitedError, match="the server's"):
        limiter.admit(key_of("key_4"))
    assert dict(limiter.headers(key_of("key_4")))["x-ratelimit-remaining-requests"] == "0"


def test_tokens_are_reserved_and_settled(clock):
    limiter, key = limiter_of(clock), key_of(tokens_per_minute=100)
    ticket = limiter.admit(key)
    ticket.reserve("tiny", 80)
    assert dict(limiter.headers(key))["x-ratelimit-remaining-tokens"] == "20"
    with pytest.raises(RateLimitedError, match="100 tokens a minute"):
        limiter.admit(key).reserve("tiny", 30)
    ticket.spend(10, 5)
    ticket.close()
    ticket.close()
    assert dict(limiter.headers(key))["x-ratelimit-remaining-tokens"] == "85"
    limiter.admit(key).reserve("tiny", 80)


def test_places_are_left_however_a_request_ends(clock):
    limiter, key = limiter_of(clock), key_of(max_concurrent=2, tokens_per_minute=50)
    running = [limiter.admit(key) for _ in range(2)]
    for ticket in running:
        ticket.reserve("tiny", 10)
    with pytest.raises(RateLimitedError, match="2 requests at the same time") as caught:
        limiter.admit(key).reserve("tiny", 10)
    assert caught.value.details["retry_after_s"] == 1.0
    running[0].close()
    with pytest.raises(RateLimitedError, match="tokens"):
        limiter.admit(key).reserve("tiny", 60)
    refused = limiter.admit(key)
    with pytest.raises(RateLimitedError, match="tokens"):
        refused.reserve("tiny", 45)
    refused.close()
    limiter.admit(key).reserve("tiny", 40)


def test_a_quota_counts_what_was_used_what_runs_and_what_is_asked_for(clock):
    limiter, key = limiter_of(clock, written={"key_1": 60}), key_of(token_quota=100)
    running = limiter.admit(key)
    running.reserve("tiny", 30)
    with pytest.raises(
        QuotaError, match="of the key's 100 tokens 10 are left, and 11 were"
    ) as found:
        limiter.admit(key).reserve("tiny", 11)
    assert "max_tokens" in found.value.hint
    running.spend(5, 5)
    running.close()
    limiter.admit(key).reserve("tiny", 30)
    with pytest.raises(QuotaError, match=" 0 are left"):
        limiter.admit(key).reserve("tiny", 1)
    assert limiter.usage.spent("key_1") == 70


def test_nobody_is_let_through_while_nobody_knows_what_was_used(clock):
    with pytest.raises(NotRunningError):
        limiter_of(clock).admit(key_of(token_quota=100)).reserve("tiny", 1)


def left(limiter: Limiter, key: Key, what: str = "requests") -> tuple[int, int, float]:
    """The limit that is told, what remains of it, and in how many seconds it is whole again."""
    told = dict(limiter.headers(key))
    limit, remaining, reset = (
        told[f"x-ratelimit-{word}-{what}"] for word in ("limit", "remaining", "reset")
    )
    return int(limit), int(remaining), float(reset.removesuffix("s"))


def test_a_limit_that_is_changed_is_in_force_at_once_and_gives_nothing_away(clock):
    limiter, wider = limiter_of(clock), key_of(requests_per_minute=100)
    for _ in range(10):
        limiter.admit(key_of(requests_per_minute=10))
    limiter.admit(wider)
    assert left(limiter, wider) == (100, 89, pytest.approx(6.6))
    for _ in range(89):
        limiter.admit(wider)
    with pytest.raises(RateLimitedError, match="limit of 100 requests a minute leaves 0") as found:
        limiter.admit(wider)
    assert found.value.details["retry_after_s"] == pytest.approx(0.6)
    clock.now_s += 0.6
    limiter.admit(wider)
    clock.now_s += 30
    for limit in (5, 100):  # lowered and raised again: 5 at most are used by then
        key = key_of(requests_per_minute=limit)
        with suppress(RateLimitedError):
            limiter.admit(key)
    assert left(limiter, key)[1] == 94
    clock.now_s += 1
    with pytest.raises(RateLimitedError, match="limit of 5 requests a minute leaves 0"):
        limiter.admit(key_of(requests_per_minute=5))
    ticket = limiter.admit(key_of("key_2"))
    ticket.reserve("tiny", 10)
    ticket.close()
    limiter.admit(key_of("key_2", tokens_per_minute=5)).reserve("tiny", 5)


def test_a_debt_stays_one_under_another_limit_and_none_comes_of_it(clock):
    limiter = limiter_of(clock)
    limiter.admit(key_of(tokens_per_minute=100)).reserve("tiny", 300)  # more than it holds: a debt
    for limit, remaining_s in ((100, 180), (200, 90), (50, 180)):
        key = key_of(tokens_per_minute=limit)
        limiter.admit(key)
        assert left(limiter, key, "tokens") == (limit, 0, pytest.approx(remaining_s))
    calm = key_of("key_2", tokens_per_minute=100)
    limiter.admit(calm).reserve("tiny", 90)
    lower = key_of("key_2", tokens_per_minute=20)
    with pytest.raises(RateLimitedError, match="20 tokens a minute leaves 0 now: too few for 5"):
        limiter.admit(lower).reserve("tiny", 5)
    assert left(limiter, lower, "tokens") == (20, 0, pytest.approx(60))


def test_a_request_that_is_under_way_leaves_a_changed_limit_as_it_is(clock):
    limiter = limiter_of(clock)
    before = key_of(requests_per_minute=10, tokens_per_minute=100, max_concurrent=1)
    now = key_of(requests_per_minute=100, tokens_per_minute=1000, max_concurrent=5)
    long = limiter.admit(before)
    limiter.admit(now)
    long.reserve("tiny", 10)
    assert left(limiter, before)[:2] == left(limiter, now)[:2] == (100, 98)
    limiter.admit(now)
    assert left(limiter, now, "tokens")[:2] == (1000, 990)
    assert [room.places.n_places for room in limiter.rooms_of(before)] == [5]


def test_what_was_granted_of_another_limit_is_not_taken(clock):
    limiter, owner = limiter_of(clock), LimiterHost(clock)
    limiter.admit(key_of(requests_per_minute=10, max_concurrent=1)).reserve("tiny", 1)
    clock.now_s += 60
    granted = owner.renew("a", limiter.asks())
    wider = key_of(requests_per_minute=600, max_concurrent=9)
    limiter.admit(wider)
    limiter.apply(granted)
    assert left(limiter, wider)[:2] == (600, 599)
    assert [room.places.n_places for room in limiter.rooms_of(wider)] == [9]
    limiter.apply(owner.renew("a", limiter.asks()))
    assert left(limiter, wider)[:2] == (600, 599)


def test_what_nobody_uses_is_not_kept(clock):
    limiter = limiter_of(clock)
    for number in range(1000):
        limiter.admit(key_of(f"key_{number}", requests_per_minute=5, max_concurrent=1)).close()
    held = limiter.admit(key_of("key_held", max_concurrent=1))
    held.reserve("tiny", 1)
    assert len(limiter.asks()) == 1001
    clock.now_s += 121
    assert list(limiter.asks()) == ["key_held/places"]


class Town:
    """Several ingresses, their owner, and clients that ask as often as they may."""

    def __init__(self, n: int, clock: Clock, rates: Rates | None = None) -> None:
        self.clock = clock
        self.owner: LimiterHost | None = LimiterHost(clock)
        self.limiters = [limiter_of(clock, rates) for _ in range(n)]
        self.random = random.Random(n)
        self.step = 0
        for _ in range(2):  # they have heard of each other
            self.renew()

    def renew(self) -> None:
        for number, limiter in enumerate(self.limiters):
            asks = limiter.asks()
            if self.owner is not None:
                limiter.apply(self.owner.renew(str(number), asks))

    def run(self, seconds: float, per_s: float, shares: list[float], ask) -> int:
        """Ask `per_s` times a second, at each ingress by its share; how often one was let in."""
        n_admitted, dt = 0, 0.1
        for _ in range(round(seconds / dt)):
            self.clock.now_s += dt
            self.step += 1
            if self.step % 10 == 0:
                self.renew()
            for limiter, share in zip(self.limiters, shares, strict=True):
                for _ in range(poisson(self.random, per_s * share * dt)):
                    with suppress(RateLimitedError):
                        n_admitted += ask(limiter)
        return n_admitted


def poisson(source: random.Random, mean: float) -> int:
    n, left = 0, source.expovariate(1.0)
    while left < mean:
        n += 1
        left += source.expovariate(1.0)
    return n


def even(n: int) -> list[float]:
    return [1 / n] * n


def one(n: int) -> list[float]:
    return [1.0] + [0.0] * (n - 1)


def skewed(n: int) -> list[float]:
    parts = [2.0**-k for k in range(n)]
    return [part / sum(parts) for part in parts]


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("spread", [even, one, skewed])
@pytest.mark.parametrize("limit", [60, 240])
def test_what_several_let_in_together_stays_within_a_tenth_of_the_limit(clock, n, spread, limit):
    town, key = Town(n, clock), key_of(requests_per_minute=limit)

    def ask(limiter: Limiter) -> int:
        limiter.admit(key)
        return 1

    at_first = town.run(60, 5 * limit / 60, spread(n), ask)
    assert at_first <= 1.1 * 2 * limit, "a minute's worth may come at once"
    later = town.run(300, 5 * limit / 60, spread(n), ask)
    assert later == pytest.approx(5 * limit, rel=0.1)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_tokens_that_several_let_in_together_stay_within_a_tenth(clock, n):
    town, key = Town(n, clock), key_of(tokens_per_minute=60_000)

    def ask(limiter: Limiter) -> int:
        ticket = limiter.admit(key)
        ticket.reserve("tiny", 2000)
        ticket.spend(100, n_new := town.random.randrange(1000))
        ticket.close()
        return 100 + n_new

    town.run(60, 20, skewed(n), ask)
    assert town.run(300, 20, skewed(n), ask) == pytest.approx(300_000, rel=0.1)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_where_the_crowd_goes_elsewhere_the_limit_follows_within_seconds(clock, n):
    town, key = Town(n, clock), key_of(requests_per_minute=300)

    def ask(limiter: Limiter) -> int:
        limiter.admit(key)
        return 1

    town.run(120, 25, one(n), ask)
    town.run(5, 25, one(n)[::-1], ask)
    assert town.run(60, 25, one(n)[::-1], ask) == pytest.approx(300, rel=0.1)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_while_the_owner_is_away_the_last_granted_holds_and_a_new_key_is_not_unlimited(clock, n):
    town = Town(n, clock)
    known, new = key_of("key_1", requests_per_minute=300), key_of("key_2", requests_per_minute=300)

    def ask_as(key: Key):
        def ask(limiter: Limiter) -> int:
            limiter.admit(key)
            return 1

        return ask

    town.run(60, 25, skewed(n), ask_as(known))
    town.owner = None
    assert town.run(120, 25, skewed(n), ask_as(known)) == pytest.approx(600, rel=0.1)
    at_first = town.run(60, 25, even(n), ask_as(new))
    assert at_first <= 1.1 * 600
    assert town.run(120, 25, even(n), ask_as(new)) == pytest.approx(600, rel=0.1)


@pytest.mark.parametrize("n", [2, 4])
def test_an_owner_that_begins_anew_lets_nobody_through_twice(clock, n):
    town, key = Town(n, clock), key_of(requests_per_minute=300)

    def ask(limiter: Limiter) -> int:
        limiter.admit(key)
        return 1

    town.run(60, 25, skewed(n), ask)
    n_admitted = 0
    for _ in range(10):
        town.owner = LimiterHost(clock)
        n_admitted += town.run(6, 25, skewed(n), ask)
    assert n_admitted == pytest.approx(300, rel=0.1)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("spread", [even, one])
def test_places_of_several_are_never_more_than_the_limit_and_are_used(clock, n, spread):
    town, key = Town(n, clock), key_of(max_concurrent=8)
    running: list[tuple[float, object]] = []
    most, total, n_looks = 0, 0, 0

    def ask(limiter: Limiter) -> int:
        nonlocal most, total, n_looks
        for end_s, ticket in list(running):
            if end_s <= clock.now_s:
                ticket.close()
                running.remove((end_s, ticket))
        total += len(running)
        n_looks += 1
        ticket = limiter.admit(key)
        ticket.reserve("tiny", 1)
        running.append((clock.now_s + 2.0, ticket))
        most = max(most, len(running))
        return 1

    town.run(20, 40, spread(n), ask)
    total = n_looks = 0
    town.run(120, 40, spread(n), ask)
    assert most <= 8
    assert total / n_looks > 0.8 * 8
