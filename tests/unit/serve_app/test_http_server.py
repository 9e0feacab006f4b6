from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from actors.cluster_info import ClusterInfo
from actors.tls_trust import trust_of
from mulm.errors import ConfigError, NotRunningError
from serve_app.http_connection import HttpConnection
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


async def say(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Send parts over one connection, and read until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await asyncio.sleep(pause_s)
    async with asyncio.timeout(10):
        answered = await reader.read()
    writer.close()
    return answered


def test_a_head_has_a_size_and_a_time(monkeypatch):
    monkeypatch.setattr(HttpConnection, "head_timeout_s", 0.3)

    async def check():
        server = HttpServer(app_that_says("one"), "127.0.0.1", port := free_port(), 1.0)
        await server.start()
        begin = b"GET / HTTP/1.1\r\nhost: a\r\n"
        fields = [b"x: " + b"y" * 16_400 + b"\r\n"] * 4
        at_once = b"".join((begin, *fields, b"\r\n"))
        of_many = begin + b"a:\r\n" * 20_000 + b"\r\n"
        for parts in ((begin, *fields), (at_once,), (of_many,)):
            large = await say(port, *parts, pause_s=0.02)
            assert large.startswith(b"HTTP/1.1 431 ")
            assert json.loads(large.split(b"\r\n\r\n")[1])["error"]["code"] == "http_error"
        assert (await say(port, begin)).startswith(b"HTTP/1.1 408 ")
        assert await say(port) == b""
        slow = await say(port, begin, b"connection: close\r\n\r\n", pause_s=0.1)
        assert slow.startswith(b"HTTP/1.1 200 ")
        nonsense = await say(port, b"FOO / HTTP/1.1\r\n\r\n")
        assert nonsense.startswith(b"HTTP/1.1 400 ")
        assert "error" in json.loads(nonsense.split(b"\r\n\r\n")[1])
        await server.stop()

    asyncio.run(check())


def test_a_kept_connection_is_used_again_and_its_next_head_has_its_time_too(monkeypatch):
    monkeypatch.setattr(HttpConnection, "head_timeout_s", 0.3)

    async def check():
        server = HttpServer(app_that_says("one"), "127.0.0.1", port := free_port(), 1.0)
        await server.start()
        whole = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        answered = await say(port, whole, whole, b"GET / HTTP/1.1\r\n", pause_s=0.1)
        assert answered.count(b"HTTP/1.1 200 ") == 2
        assert answered.count(b"HTTP/1.1 408 ") == 1
        await server.stop()

    asyncio.run(check())


def test_it_speaks_tls_and_our_own_commands_trust_its_certificate_alone(certificate, tmp_path):
    def info(cert: Path) -> ClusterInfo:
        return ClusterInfo(
            id="c", gcs_address="", dashboard_url="", http_host="127.0.0.1", http_port=port,
            pid=1, temp_dir="", tls_cert=str(cert),
        )  # fmt: skip

    async def ask(verify) -> str:
        async with httpx.AsyncClient(trust_env=False, verify=verify) as client:
            return (await client.get(f"{info(certificate[0]).api_url}/")).text

    async def check():
        server = HttpServer(app_that_says("safe"), "127.0.0.1", port, 1.0, certificate)
        await server.start()
        assert await ask(trust_of(info(certificate[0]))) == "safe"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await ask(True)
        with pytest.raises(httpx.HTTPError):
            await get(port)
        await server.stop()

    port = free_port()
    asyncio.run(check())
    with pytest.raises(ConfigError, match="cannot read"):
        trust_of(info(tmp_path / "gone.pem"))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_a_connection_whose_client_reads_nothing_of_a_whole_answer_ends(monkeypatch):
    monkeypatch.setattr(HttpConnection, "unread_timeout_s", 0.3)
    lost, connection_lost = asyncio.Event(), HttpConnection.connection_lost

    def note(self, exc):
        connection_lost(self, exc)
        lost.set()

    monkeypatch.setattr(HttpConnection, "connection_lost", note)

    async def check():
        server = HttpServer(app_that_says("x" * (20 << 20)), "127.0.0.1", port := free_port(), 0.0)
        await server.start()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            async with asyncio.timeout(30):
                await lost.wait()
        await server.stop()

    asyncio.run(check())
