from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from mulm.errors import NotRunningError
from serve_app.http_server import HttpServer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def app_that_says(text: str, until: asyncio.Event | None = None) -> Starlette:
    async def say(_request):
        return PlainTextResponse(text)

    async def stream(_request):
        async def parts():
            yield "begun "
            await until.wait()
            yield "ended"

        return StreamingResponse(parts())

    return Starlette(routes=[Route("/", say), Route("/stream", stream)])


async def get(port: int, path: str = "/") -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://127.0.0.1:{port}{path}")).text


def test_it_answers_until_it_is_stopped():
    async def check():
        server = HttpServer(app_that_says("one"), "127.0.0.1", port := free_port(), 1.0)
        with pytest.raises(NotRunningError):
            server.check_health()
        await server.start()
        server.check_health()
        assert await get(port) == "one"
        await server.stop()
        with pytest.raises(httpx.ConnectError):
            await get(port)
        with pytest.raises(NotRunningError):
            server.check_health()

    asyncio.run(check())


def test_a_running_answer_ends_by_itself_while_the_next_server_answers():
    async def check():
        may_end = asyncio.Event()
        port = free_port()
        old = HttpServer(app_that_says("old", may_end), "127.0.0.1", port, 10.0)
        await old.start()
        running = asyncio.create_task(get(port, "/stream"))
        await asyncio.sleep(0.2)
        new = HttpServer(app_that_says("new"), "127.0.0.1", port, 1.0)
        await new.start()
        stopping = asyncio.create_task(old.stop())
        await asyncio.sleep(0.2)
        assert await get(port) == "new"
        assert not stopping.done()
        may_end.set()
        assert await running == "begun ended"
        await stopping
        await new.stop()

    asyncio.run(check())


def test_a_port_that_somebody_has_is_named():
    async def check():
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            port = stranger.getsockname()[1]
            with pytest.raises(NotRunningError, match=f"127.0.0.1:{port}"):
                await HttpServer(app_that_says(""), "127.0.0.1", port, 1.0).start()

    asyncio.run(check())
