from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

import pytest

from mulm.errors import ConfigError, DeadlineError, NotRunningError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.canary import Canary, CountedClient, Tally, judge

CANARY = Canary(model="tiny@2", min_requests=4, max_failures=10.0)


def tally(n_good: int, n_bad: int = 0, wait_s: float = 0.1) -> Tally:
    made = Tally()
    made.has_failed.extend([False] * n_good + [True] * n_bad)
    made.first_token_s.extend([wait_s] * n_good)
    return made


@pytest.mark.parametrize(
    ("itself", "other", "reason"),
    [
        (tally(0), tally(100), None),
        (tally(0, 3), tally(100), None),
        (tally(4), tally(100), None),
        (tally(0, 4), tally(100), "100 % of its 4 requests failed"),
        (tally(18, 2), tally(100), None),
        (tally(17, 3), tally(100), "15 % of its 20"),
        (tally(17, 3), tally(90, 10), None),
        (tally(4, 0, 2.0), tally(100), "first token takes 2.00 s"),
        (tally(4, 0, 0.4), tally(100, 0, 0.1), None),
        (tally(4, 0, 2.0), tally(3, 0, 0.1), None),
    ],
)
def test_a_canary_is_judged_by_what_its_requests_met(itself, other, reason):
    found = judge(CANARY, itself, other)
    assert (found is None) if reason is None else reason in found


@pytest.mark.parametrize(
    "bad", [{"model": "no ref!"}, {"weight": 0}, {"weight": 100}, {"min_requests": 0}, {"x": 1}]
)
def test_an_impossible_canary_is_refused(bad):
    with pytest.raises((ConfigError, ValueError)):
        Canary(**({"model": "tiny@2"} | bad))


class Engine:
    def __init__(self, *items):
        self.items = items

    async def generate(self, _model_id, _request):
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            yield item

    async def is_ready(self):
        return True

    async def holds(self, _model_id):
        return True


def run(*items, n=1, leaves=False, is_hurried=False) -> Tally:
    found = Tally()
    client = CountedClient(Engine(*items), found, iter(range(100)).__next__)
    request = GenerateRequest("r", (1,), n=n, is_hurried=is_hurried)

    async def read():
        async with aclosing(client.generate("m", request)) as chunks:
            async for _ in chunks:
                if leaves:
                    return

    with suppress(ConfigError, DeadlineError, NotRunningError):
        asyncio.run(read())
    return found


def end(reason, index=0):
    return TokenChunk("r", (1,), reason, index)


def test_ends_are_counted_once_for_each_request():
    assert list(run(TokenChunk("r", (1,)), end("stop")).has_failed) == [False]
    assert list(run(end("stop"), end("length", 1), n=2).has_failed) == [False]
    assert list(run(end("deadline")).has_failed) == [True]
    assert list(run(end("deadline"), end("stop", 1), n=2).has_failed) == [True]
    assert list(run(NotRunningError("gone")).has_failed) == [True]
    assert list(run(end("stop")).first_token_s) == [1]


def test_what_a_client_does_counts_against_nobody():
    assert not run(ConfigError("bad grammar")).has_failed
    assert not run(DeadlineError("late"), is_hurried=True).has_failed
    assert list(run(end("deadline"), is_hurried=True).has_failed) == [False]
    assert list(run(DeadlineError("late")).has_failed) == [True]
    assert not run(TokenChunk("r", (1,)), TokenChunk("r", (1,)), leaves=True).has_failed


class Stuck(Engine):
    """Says what it has, and never anything more."""

    async def generate(self, _model_id, _request):
        for item in self.items:
            yield item
        await asyncio.Event().wait()


@pytest.mark.parametrize(("passed_s", "has_failed"), [(5.0, []), (10.0, [True])])
def test_a_reader_whose_time_is_over_is_no_client_who_left(passed_s, has_failed):
    found = Tally()
    client = CountedClient(Stuck(), found, iter([0.0, passed_s]).__next__)

    async def read():
        request = GenerateRequest("r", (1,), deadline_s=10.0)
        async with aclosing(client.generate("m", request)) as chunks:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(chunks)

    asyncio.run(read())
    assert list(found.has_failed) == has_failed


def test_a_model_is_judged_by_its_own_requests_when_an_alias_moves():
    found = Tally()
    client = CountedClient(Engine(TokenChunk("r", (1,)), end("stop")), found)
    request = GenerateRequest("r", (1,))

    async def read(model_id):
        async with aclosing(client.generate(model_id, request)) as chunks:
            return [chunk async for chunk in chunks]

    async def check():
        await read("m1")
        slow = client.generate("m1", request)
        await anext(slow)
        await read("m2")
        _ = [chunk async for chunk in slow]

    asyncio.run(check())
    assert list(found.has_failed) == [False], "of m2 alone"
    assert len(found.first_token_s) == 1
