"""Clients that go away, by the bare interface: an engine that never ends must be told."""

from __future__ import annotations

import asyncio
import json

import pytest

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}


class GoneError(Exception):
    """What a server raises when it sends to nobody."""


class Client:
    """One POST; leaves when told, or cannot be sent anything at all."""

    def __init__(self, key: str, is_deaf: bool = False, is_streamed: bool = True) -> None:
        self._key = key
        self.has_left = asyncio.Event()
        self.has_text = asyncio.Event()
        self.is_deaf = is_deaf
        self._body = [json.dumps(CHAT | {"stream": is_streamed}).encode()]

    async def receive(self):
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if self.is_deaf:
            raise GoneError
        if message.get("body"):
            self.has_text.set()

    def run(self, app):
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/chat/completions",
            "raw_path": b"/v1/chat/completions",
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), text.encode()) for name, text in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        return app(scope, self.receive, self.send)


def test_a_client_that_stops_reading_frees_its_slot(scripted, scripted_app, key):
    scripted.groups, scripted.never_ends = [[300]], True

    async def check():
        client = Client(key)
        answering = asyncio.create_task(client.run(scripted_app))
        await asyncio.wait_for(client.has_text.wait(), 5)
        assert scripted.n_closed_early == 0
        client.has_left.set()
        await asyncio.wait_for(asyncio.gather(answering, return_exceptions=True), 5)
        assert scripted.n_closed_early == 1

    asyncio.run(check())


def test_a_client_that_is_gone_before_the_first_byte_frees_its_slot(scripted, scripted_app, key):
    scripted.groups, scripted.never_ends = [[300]], True

    async def check():
        with pytest.raises(Exception) as caught:
            await asyncio.wait_for(Client(key, is_deaf=True).run(scripted_app), 5)
        assert not isinstance(caught.value, TimeoutError)
        assert scripted.n_closed_early == 1

    asyncio.run(check())


def test_a_client_that_waits_for_the_whole_answer_and_leaves_frees_its_slot(
    scripted, scripted_app, key
):
    scripted.groups, scripted.never_ends = [[300]], True

    async def check():
        client = Client(key, is_streamed=False)
        answering = asyncio.create_task(client.run(scripted_app))
        while not scripted.requests:
            await asyncio.sleep(0.01)
        client.has_left.set()
        await asyncio.wait_for(answering, 5)
        assert scripted.n_closed_early == 1
        assert not client.has_text.is_set()

    asyncio.run(check())
