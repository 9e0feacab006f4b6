"""The client over a handle that fails as Serve's do; no cluster."""

from __future__ import annotations

import asyncio
import warnings
from contextlib import aclosing

import pytest
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
    RayError,
    RayTaskError,
)

from mulm.errors import MulmError, NotRunningError, OverloadedError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.engine_client import ModelChangingError
from serve_app.token_channel import TokenReceiver, TokenSender, UnreachableError

with warnings.catch_warnings():  # Serve's own, at import
    warnings.simplefilter("ignore")
    from ray.serve.exceptions import BackPressureError, RayServeException

    from serve_app.serve_client import ServeEngineClient

END = TokenChunk("a", (1,), "length")
BUSY = BackPressureError(num_queued_requests=1, max_queued_requests=1)
RAYS_OWN = [
    RayActorError(),
    ActorUnavailableError("actor 1a2b on 10.0.0.1", None),
    GetTimeoutError("1a2b"),
    RayError("1a2b"),
    RayServeException("1a2b"),
]


class Response:
    def __init__(self, items):
        self._items = items
        self.is_cancelled = False

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        [item] = self._items
        if isinstance(item, Exception):
            raise item
        return item

    async def __aiter__(self):
        for item in self._items:
            if isinstance(item, Exception):
                raise item
            yield item

    def cancel(self):
        self.is_cancelled = True


class Handle:
    """Answers every call with the next script."""

    def __init__(self, *scripts):
        self._scripts = list(scripts)
        self.responses = []
        self.calls = []
        self.generate = self.load = self

    def options(self, **_options):
        return self

    def remote(self, *args):
        self.calls.append(args)
        self.responses.append(Response(self._scripts.pop(0)))
        return self.responses[-1]


async def collect(handle, **options):
    request = GenerateRequest("a", (1,), **options)
    return [chunk async for chunk in ServeEngineClient(handle).generate("m", request)]


@pytest.mark.parametrize("error", RAYS_OWN, ids=lambda error: type(error).__name__)
def test_errors_of_ray_arrive_as_ours_without_its_words(error):
    with pytest.raises(MulmError) as caught:
        asyncio.run(collect(Handle([error])))
    assert isinstance(caught.value, NotRunningError)
    assert "1a2b" not in str(caught.value)
    assert not asyncio.run(ServeEngineClient(Handle([error])).is_ready())
    assert not asyncio.run(ServeEngineClient(Handle([error])).holds("m"))


def test_a_full_line_is_overload_and_still_ready():
    with pytest.raises(OverloadedError):
        asyncio.run(collect(Handle([BUSY])))
    assert asyncio.run(ServeEngineClient(Handle([BUSY])).is_ready())


def test_a_replica_with_another_model_is_passed_over_and_the_time_counts():
    handle = Handle([WrappedChangingError()], [END])
    assert asyncio.run(collect(handle, deadline_s=50.0)) == [END]
    first, second = (request.deadline_s for _, request in handle.calls)
    assert 49.0 < second < first <= 50.0


def test_holding_a_model_is_what_the_engine_reports():
    client = ServeEngineClient(Handle([{"model_id": "m"}], [{"model_id": "other"}]))
    assert asyncio.run(client.holds("m"))
    assert not asyncio.run(client.holds("m"))


def test_leaving_cancels_the_call():
    handle = Handle([TokenChunk("a", (1,)), END])

    async def check():
        chunks = ServeEngineClient(handle).generate("m", GenerateRequest("a", (1,)))
        await anext(chunks)
        await chunks.aclose()

    asyncio.run(check())
    assert handle.responses[0].is_cancelled


class WrappedChangingError(RayError):
    """As Serve delivers it: Ray's error with ours as its cause."""

    cause = ModelChangingError("another model")


class Engine:
    """A handle whose engine sends chunks over the channel, then ends its call with an outcome."""

    def __init__(self, chunks, outcome=1, is_behind_a_firewall=False):
        self.chunks, self.outcome = chunks, outcome
        self.is_behind_a_firewall = is_behind_a_firewall
        self.n_streamed = self.n_cancelled = 0
        self.send, self.generate = Call(self._send), Call(self._generate)
        self.sender = TokenSender()

    def options(self, **_options):
        return self

    def _send(self, _model_id, _request, reply_to):
        return Running(self, self._work(reply_to))

    def _generate(self, _model_id, _request):
        self.n_streamed += 1
        return Response(self.chunks)

    async def _work(self, reply_to):
        if self.is_behind_a_firewall:
            raise RayTaskError("send", "trace", UnreachableError("no way"))
        connection = await self.sender.connect(reply_to)
        for chunk in self.chunks:
            await self.sender.send(connection, chunk)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        if self.outcome is None:
            await asyncio.Event().wait()
        return self.outcome


class Call:
    def __init__(self, remote):
        self.remote = remote


class Running:
    """A call that is under way."""

    def __init__(self, engine, work):
        self._engine, self._task = engine, asyncio.ensure_future(work)

    def __await__(self):
        return self._task.__await__()

    def cancel(self):
        self._engine.n_cancelled += 1
        self._task.cancel()


async def over_channel(engine, n_wanted=None, **options) -> list[TokenChunk]:
    receiver = TokenReceiver("127.0.0.1")
    client = ServeEngineClient(engine, receiver)
    found = []
    try:
        async with aclosing(client.generate("m", GenerateRequest("a", (1,), **options))) as chunks:
            async for chunk in chunks:
                found.append(chunk)
                if len(found) == n_wanted:
                    break
        await asyncio.sleep(0.05)
    finally:
        await engine.sender.close()
        await receiver.close()
    return found


def test_tokens_come_over_the_channel():
    chunks = [
        TokenChunk("a", (1,)),
        TokenChunk("a", (2,), "stop", 1),
        TokenChunk("a", (3,), "stop"),
    ]
    engine = Engine(chunks)
    assert asyncio.run(over_channel(engine, n=2)) == chunks
    assert (engine.n_streamed, engine.n_cancelled) == (0, 0)


def test_a_reader_that_leaves_cancels_the_call():
    engine = Engine([TokenChunk("a", (1,))], outcome=None)
    assert len(asyncio.run(over_channel(engine, n_wanted=1))) == 1
    assert engine.n_cancelled == 1


def test_a_call_that_fails_ends_the_tokens():
    engine = Engine([TokenChunk("a", (1,))], outcome=RayActorError())
    with pytest.raises(NotRunningError, match="went away"):
        asyncio.run(over_channel(engine))


def test_tokens_that_never_come_are_an_error_and_no_wait(monkeypatch):
    monkeypatch.setattr("serve_app.serve_client._ON_THE_WAY_S", 0.1)
    engine = Engine([TokenChunk("a", (1,))])
    with pytest.raises(NotRunningError, match="lost"):
        asyncio.run(over_channel(engine))


def test_where_an_engine_cannot_connect_tokens_come_over_the_handle_for_a_while(monkeypatch):
    engine = Engine([TokenChunk("a", (1,)), END], is_behind_a_firewall=True)
    assert asyncio.run(over_channel(engine)) == [TokenChunk("a", (1,)), END]
    assert engine.n_streamed == 1

    async def later():
        now_s = 0.0
        receiver = TokenReceiver("127.0.0.1")
        client = ServeEngineClient(engine, receiver, lambda: now_s)
        for now_s, n_streamed in ((0.0, 2), (29.0, 3), (31.0, 3)):
            engine.is_behind_a_firewall = now_s == 0
            async with aclosing(client.generate("m", GenerateRequest("a", (1,)))) as chunks:
                assert [chunk async for chunk in chunks] == [TokenChunk("a", (1,)), END]
            assert engine.n_streamed == n_streamed
        await engine.sender.close()
        await receiver.close()

    asyncio.run(later())
