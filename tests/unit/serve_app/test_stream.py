from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest

from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.errors import DeadlineError
from mulm.messages import GenerateRequest, SamplingParams
from serve_app.engine_thread import EngineThread
from serve_app.http_server import HttpServer
from serve_app.openai_api.stream import DONE, HEARTBEAT, EventStream, event


class Source:
    n_closed = 0

    async def aclose(self):
        self.n_closed += 1


async def silent_for(seconds, *, error=None):
    yield {"n": 1}
    await asyncio.sleep(seconds)
    if error:
        raise error
    yield {"n": 2}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def receive():
    await asyncio.Event().wait()


def sent_by(stream, send=None):
    bodies = []

    async def take(message):
        bodies.append(message.get("body", b""))

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    asyncio.run(asyncio.wait_for(stream(scope, receive, send or take), 10))
    return bodies


def test_silence_is_filled_with_comments():
    source = Source()
    sent = sent_by(EventStream(silent_for(0.5), source, heartbeat_s=0.1))
    assert 3 <= sent.count(HEARTBEAT) <= 5
    assert [body for body in sent if body and body != HEARTBEAT] == [
        b'data: {"n":1}\n\n', b'data: {"n":2}\n\n', DONE,
    ]  # fmt: skip
    assert source.n_closed == 1


def test_an_error_is_the_last_event():
    sent = sent_by(EventStream(silent_for(0, error=DeadlineError("late")), Source()))
    assert b"deadline_exceeded" in sent[-2]
    assert DONE not in sent


@pytest.mark.parametrize("n_read", [1, 2])
def test_a_client_that_reads_nothing_is_given_up(n_read, caplog):
    source = Source()
    sent = []

    async def send(message):
        if len(sent) > n_read:
            await asyncio.Event().wait()
        sent.append(message)

    sent_by(EventStream(silent_for(0), source, write_timeout_s=0.1), send)
    assert source.n_closed == 1
    assert "read nothing" in caplog.text


def test_a_client_that_reads_no_heartbeat_is_given_up_before_there_is_news(caplog):
    source, sent = Source(), []

    async def send(message):
        if len(sent) > 1:
            await asyncio.Event().wait()
        sent.append(message)

    began_s = time.monotonic()
    stream = EventStream(silent_for(30), source, heartbeat_s=0.05, write_timeout_s=0.1)
    sent_by(stream, send)
    assert time.monotonic() - began_s < 10
    assert source.n_closed == 1
    assert "read nothing" in caplog.text


def test_no_text_ends_a_line():
    text = "a\u2028b\u0085c\nd\u2029 ö"
    lines = event({"text": text}, "said").decode().splitlines()
    assert lines[0] == "event: said"
    assert json.loads(lines[1].removeprefix("data: ")) == {"text": text}
    assert lines[2:] == [""]


LONG = GenerateRequest("a", (1, 2), SamplingParams(max_tokens=90_000, temperature=0))


def streaming(thread: EngineThread, write_timeout_s: float):
    """An application that streams an answer in events so large that no kernel buffers many."""

    async def app(scope, receive, send):
        source = thread.generate(LONG)

        async def objects():
            async for chunk in source:
                yield {"ids": chunk.token_ids, "filling": "x" * (1 << 16)}

        stream = EventStream(objects(), source, write_timeout_s=write_timeout_s)
        await stream(scope, receive, send)

    return app


def test_a_socket_that_is_not_read_any_more_ends_its_stream_and_frees_its_pages(caplog):
    thread = EngineThread(Engine(FakeModel(FakeConfig(max_seq_len=100_000)), 1), 0.0)
    freed = []

    def look(engine):
        engine.check_integrity()
        freed.append(engine.stats().n_free_pages == engine.n_pages)

    async def check():
        server = HttpServer(streaming(thread, 0.3), "127.0.0.1", port := free_port(), 0.0)
        await server.start()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            while b"data:" not in await loop.sock_recv(client, 1000):
                pass
            assert thread.n_unfinished
            async with asyncio.timeout(30):
                while thread.n_unfinished:
                    await asyncio.sleep(0.01)
            await thread.act(look)
        await server.stop()

    asyncio.run(check())
    thread.stop()
    assert freed == [True]
    assert "a client read nothing for 0.3 s" in caplog.text
