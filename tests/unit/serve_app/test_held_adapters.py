"""Adapters come and go while an engine runs, and no request loses the one that it began with."""

from __future__ import annotations

import asyncio

import pytest

from mulm.engine.engine import Engine
from mulm.engine.fake import FakeModel
from mulm.errors import ConfigError, NotRunningError
from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.adapter import Adapter
from serve_app.engine_thread import EngineThread
from serve_app.held_adapters import HeldAdapters

NOTHING = Adapter({})
KEEP_S = 0.05


@pytest.fixture
def model():
    return FakeModel()


@pytest.fixture
def thread(model):
    under_test = EngineThread(Engine(model, n_slots=2))
    yield under_test
    under_test.stop()


def request(adapter: str, max_tokens: int = 5) -> GenerateRequest:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0)
    return GenerateRequest(f"with {adapter}", (1, 2), sampling, adapter=adapter)


async def until(is_true):
    async with asyncio.timeout(5):
        while not is_true():
            await asyncio.sleep(KEEP_S / 5)


async def end_of(thread, one):
    return [chunk async for chunk in thread.generate(one)][-1].finish_reason


def test_they_are_there_when_it_says_so_and_leave_after_a_while(thread, model):
    async def check():
        held = HeldAdapters(thread, KEEP_S)
        await held.replace({"a": NOTHING, "b": NOTHING})
        assert await end_of(thread, request("a")) == "length"
        await held.replace({"b": NOTHING, "c": NOTHING})
        assert all(name in held for name in "abc"), "an ingress may not know yet"
        assert await end_of(thread, request("a")) == "length"
        await until(lambda: "a" not in held)
        await until(lambda: len(model.adapters) == 2)
        with pytest.raises(ConfigError, match="no adapter 'a'"):
            await end_of(thread, request("a"))

    asyncio.run(check())


def test_one_that_is_in_use_stays_until_its_requests_end(thread, model):
    async def check():
        held = HeldAdapters(thread, KEEP_S)
        await held.replace({"a": NOTHING})
        running = thread.generate(request("a", 50))
        await anext(running)
        # Nothing is generated while the engine waits, so the request surely outlives the leaving.
        is_free = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait(_engine):
            asyncio.run_coroutine_threadsafe(is_free.wait(), loop).result(5)

        waiting = asyncio.create_task(thread.act(wait))
        await held.replace({})
        await until(lambda: "a" not in held)
        assert model.adapters, "it is in use"
        is_free.set()
        await waiting
        assert [chunk async for chunk in running][-1].finish_reason == "length"
        await until(lambda: not model.adapters)

    asyncio.run(check())


def test_one_that_comes_back_is_not_ended_by_its_first_leaving(thread):
    async def check():
        held = HeldAdapters(thread, KEEP_S)
        await held.replace({"a": NOTHING})
        await held.replace({})
        await held.replace({"a": NOTHING})
        await asyncio.sleep(3 * KEEP_S)
        assert "a" in held
        assert await end_of(thread, request("a")) == "length"

    asyncio.run(check())


def test_an_engine_that_has_stopped_says_so(thread):
    async def check():
        held = HeldAdapters(thread, KEEP_S)
        await held.replace({"a": NOTHING})
        await held.replace({})
        await asyncio.to_thread(thread.stop)
        with pytest.raises(NotRunningError):
            await held.replace({"b": NOTHING})
        await until(lambda: "a" not in held and not held._leaving)

    asyncio.run(check())
