from __future__ import annotations

import asyncio
import json
import time

import pytest

from mulm.errors import DeadlineError
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
