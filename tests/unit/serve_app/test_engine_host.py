from __future__ import annotations

import asyncio

import pytest

from mulm.engine.fake import FakeModel
from mulm.errors import ConfigError, NotRunningError
from mulm.messages import GenerateRequest, SamplingParams
from serve_app.engine_client import ModelChangingError
from serve_app.engine_host import EngineHost

KEEP_S = 0.3

REQUEST = GenerateRequest("a", (1, 2), SamplingParams(max_tokens=40, temperature=0))


@pytest.fixture
def host():
    return EngineHost(
        lambda args: (f"id of {args.model}", FakeModel()),
        keep_previous_s=KEEP_S,
    )


async def collect(host, model_id, request=REQUEST):
    return [chunk async for chunk in host.generate(model_id, request)]


def test_it_serves_the_model_it_was_configured_with(host):
    async def check():
        with pytest.raises(NotRunningError):
            await collect(host, "id of m@1")
        host.check_health()
        await host.reconfigure({"model": "m@1"})
        assert (await collect(host, "id of m@1"))[-1].finish_reason == "length"
        assert await host.load() == {"model_id": "id of m@1", "n_unfinished": 0}

    asyncio.run(check())


def test_another_model_is_taken_over_without_dropping_a_request(host):
    async def check():
        await host.reconfigure({"model": "m@1"})
        running = host.generate("id of m@1", REQUEST)
        first = await anext(running)
        await host.reconfigure({"model": "m@2"})
        rest = [chunk async for chunk in running]
        assert sum(len(c.token_ids) for c in (first, *rest)) == 40
        assert await collect(host, "id of m@1"), "the ingress has not switched yet"
        assert await collect(host, "id of m@2")
        assert (await host.load())["model_id"] == "id of m@2"
        await asyncio.sleep(KEEP_S + 0.1)
        with pytest.raises(ModelChangingError):
            await collect(host, "id of m@1")

    asyncio.run(check())


def test_the_same_config_again_builds_no_second_engine():
    opened = []

    def open_model(args):
        opened.append(args.model)
        return f"id of {args.model}", FakeModel()

    host = EngineHost(open_model)

    async def check():
        await host.reconfigure({"model": "m@1"})
        await host.reconfigure({"model": "m@1"})
        await host.reconfigure({"model": "m@1", "request_timeout_s": 5.0})
        assert opened == ["m@1"]

    asyncio.run(check())


def test_a_model_that_came_back_is_not_ended_by_its_first_leaving(host):
    async def check():
        await host.reconfigure({"model": "m@1"})
        await host.reconfigure({"model": "m@2"})
        await asyncio.sleep(KEEP_S / 2)
        await host.reconfigure({"model": "m@1"})
        await host.reconfigure({"model": "m@2"})
        await asyncio.sleep(KEEP_S * 0.7)
        assert await collect(host, "id of m@1")

    asyncio.run(check())


def test_a_wrong_config_keeps_the_old_model(host):
    async def check():
        await host.reconfigure({"model": "m@1"})
        with pytest.raises(ConfigError):
            await host.reconfigure({"model": "m@2", "n_slots": 0})
        assert await collect(host, "id of m@1")

    asyncio.run(check())
