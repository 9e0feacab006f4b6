from __future__ import annotations

import asyncio

from mulm.engine.fake import FakeModel
from mulm.errors import CorruptError, NotRunningError
from serve_app.alias_watch import AliasWatch
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
        return self.points_to


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

    async def check():
        watch = AliasWatch(ledger, SOON_S)
        watch.follow(LIVE, take_over)
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
        ledger.points_to = "three"
        await until(lambda: told[2:] == ["three"])
        watch.follow(AppArgs(model="m@1"), take_over)
        ledger.points_to = "four"
        await asyncio.sleep(5 * SOON_S)
        assert told[3:] == [], "a version stays"

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
