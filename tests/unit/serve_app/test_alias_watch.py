from __future__ import annotations

import asyncio

import pytest

from mulm.engine.fake import FakeModel
from mulm.errors import CorruptError, NotRunningError
from mulm.model.adapter import Adapter
from serve_app.alias_watch import FOLLOW_PERIOD_S, MAX_PAUSE_S, AliasWatch
from serve_app.engine_host import EngineHost
from serve_app.opened_model import OpenedModel
from serve_app.settings import AppArgs

LIVE = AppArgs(model="m@live")
SOON_S = 0.01


class Ledger:
    """Where the alias points, and whether it answers."""

    def __init__(self):
        self.points_to, self.is_silent = "one", False

    def __call__(self, _args):
        if self.is_silent:
            raise NotRunningError("no answer")
        return (self.points_to,)


async def until(is_true):
    async with asyncio.timeout(5):
        while not is_true():
            await asyncio.sleep(SOON_S)


def test_it_tells_of_each_move_and_survives_silence_and_failures(caplog):
    ledger, told = Ledger(), []

    async def take_over(args):
        told.append(ledger.points_to)
        if ledger.points_to == "broken":
            raise CorruptError("bad bytes")
        if ledger.points_to == "too large":
            raise RuntimeError("out of memory")
        if ledger.points_to == "late" and told.count("late") < 3:
            raise NotRunningError("the store does not answer")
        return (ledger.points_to,)

    async def check():
        watch = AliasWatch(ledger, SOON_S)
        watch.follow(LIVE, ("one",), take_over)
        await asyncio.sleep(5 * SOON_S)
        assert told == []
        ledger.is_silent = True
        await asyncio.sleep(5 * SOON_S)
        ledger.points_to, ledger.is_silent = "two", False
        await until(lambda: told == ["two"])
        ledger.points_to = "broken"
        await until(lambda: "bad bytes" in caplog.text)
        await asyncio.sleep(5 * SOON_S)
        assert told == ["two", "broken"], "it is tried once"
        ledger.points_to = "too large"
        await until(lambda: "out of memory" in caplog.text)
        ledger.points_to = "three"
        await until(lambda: told[3:] == ["three"])
        ledger.points_to = "late"
        await until(lambda: told[4:] == ["late"] * 3)
        await asyncio.sleep(5 * SOON_S)
        assert told[4:] == ["late"] * 3, "what fails for the moment is tried until it is there"
        watch.follow(AppArgs(model="m@1"), ("late",), take_over)
        ledger.points_to = "four"
        await asyncio.sleep(5 * SOON_S)
        assert told[7:] == [], "a version stays"

    asyncio.run(check())


class Time:
    """Passes when somebody sleeps, and takes no time."""

    def __init__(self):
        self.now_s = 0.0

    async def sleep(self, duration_s):
        self.now_s += duration_s
        await asyncio.sleep(0)


def seconds_until_taken_over(moved_s, silent_s=(0.0, 0.0)):
    """From the moment when the alias moved to that when its new model is begun to be loaded."""
    time, found_s = Time(), []

    def resolve(_args):
        if silent_s[0] <= time.now_s < silent_s[1]:
            raise NotRunningError("no answer")
        return ("two",) if time.now_s >= moved_s else ("one",)

    async def check():
        is_found = asyncio.Event()

        async def take_over(_args):
            found_s.append(time.now_s)
            is_found.set()
            return ("two",)

        watch = AliasWatch(resolve, sleep=time.sleep)
        watch.follow(LIVE, ("one",), take_over)
        await asyncio.wait_for(is_found.wait(), 30)
        watch.stop()

    asyncio.run(check())
    return found_s[0] - moved_s


@pytest.mark.parametrize("moved_s", [0.001, 0.5, 1.0, 7.001, 7.999, 100.25])
def test_a_model_is_begun_to_be_loaded_within_a_second_of_the_move(moved_s):
    assert 0 <= seconds_until_taken_over(moved_s) <= FOLLOW_PERIOD_S == 1.0


@pytest.mark.parametrize("outage_s", [1.5, 10.0, 300.0])
def test_after_the_ledger_was_silent_it_takes_as_long_again_at_most(outage_s):
    back_s = 10.0 + outage_s
    most_s = min(outage_s + 2 * FOLLOW_PERIOD_S, MAX_PAUSE_S)
    assert seconds_until_taken_over(back_s, (10.0, back_s)) <= most_s
    after_s = back_s + most_s + 5.5
    assert seconds_until_taken_over(after_s, (10.0, back_s)) <= FOLLOW_PERIOD_S


def test_an_alias_that_moves_while_the_model_is_loaded_is_followed():
    ledger = Ledger()

    def open_model(_args):
        found = ledger.points_to
        ledger.points_to = "two"
        return OpenedModel(found, FakeModel())

    host = EngineHost(open_model, resolve=ledger, follow_period_s=SOON_S)

    async def check():
        await host.reconfigure({"model": "m@live"})
        assert (await host.load())["model_id"] == "one"
        async with asyncio.timeout(5):
            while (await host.load())["model_id"] != "two":
                await asyncio.sleep(SOON_S)
        await host.stop()

    asyncio.run(check())


def test_an_engine_host_follows_its_alias():
    ledger = Ledger()
    host = EngineHost(
        lambda _args: OpenedModel(ledger.points_to, FakeModel()),
        resolve=ledger,
        follow_period_s=SOON_S,
    )

    async def model_id():
        return (await host.load())["model_id"]

    async def check():
        await host.reconfigure({"model": "m@live"})
        assert await model_id() == "one"
        await asyncio.sleep(5 * SOON_S)
        ledger.points_to = "two"
        async with asyncio.timeout(5):
            while await model_id() != "two":
                await asyncio.sleep(SOON_S)
        assert set(host._threads) == {"one", "two"}, "the first answers on for a while"

    asyncio.run(check())


def test_an_adapters_alias_is_followed_without_loading_the_model_again():
    opened, points_to = [], ["x@1"]

    def open_model(args):
        opened.append(args.model)
        return OpenedModel("one", FakeModel())

    host = EngineHost(
        open_model,
        resolve=lambda _args: ("one", points_to[-1]),
        follow_period_s=SOON_S,
        open_adapters=lambda _args, _model_id: {points_to[-1]: Adapter({})},
    )

    async def check():
        await host.reconfigure({"model": "m@1", "adapters": {"x": "x@live"}})
        points_to.append("x@2")
        await until(lambda: "x@2" in host._adapters["one"])
        assert "x@1" in host._adapters["one"], "the first answers on for a while"
        await asyncio.sleep(5 * SOON_S)
        assert opened == ["m@1"]
        await host.stop()

    asyncio.run(check())
