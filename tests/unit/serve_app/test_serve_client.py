"""The client over a handle that fails as Serve's do; no cluster."""

from __future__ import annotations

import asyncio
import warnings

import pytest
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
    RayError,
)

from mulm.errors import MulmError, NotRunningError, OverloadedError
from mulm.messages import GenerateRequest, Grammar, SamplingParams, TokenChunk
from serve_app.engine_client import EngineLostError, ModelChangingError

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

    is_shut = False

    def options(self, **_options):
        return self

    async def shutdown_async(self):
        self.is_shut = True

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
        asyncio.run(collect(Handle([error], [error], [error])))
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


class Line:
    """Engines that are connected, with a script for each request."""

    def __init__(self, *scripts):
        self._scripts = list(scripts)
        self.is_fresh = True

    @property
    def is_there(self):
        return bool(self._scripts)

    async def generate(self, _model_id, _request):
        for item in self._scripts.pop(0):
            if isinstance(item, Exception):
                raise item
            yield item


async def over(line, handle, found=None, grammar=None):
    found = [] if found is None else found
    request = GenerateRequest("a", (1,), SamplingParams(grammar=grammar))
    async for chunk in ServeEngineClient(handle, line).generate("m", request):
        found.append(chunk)
    return found


LOST = EngineLostError("the engine went away")


def test_connected_engines_are_asked_without_the_handle():
    handle = Handle()
    assert asyncio.run(over(Line([END]), handle)) == [END]
    assert not handle.calls
    assert asyncio.run(ServeEngineClient(handle, Line()).is_ready()), "it was heard lately"


def test_where_none_is_connected_the_handle_is_asked():
    assert asyncio.run(over(Line(), Handle([END]))) == [END]


@pytest.mark.parametrize("second", [[[END]], []])
def test_a_request_that_had_no_token_goes_to_another_engine_or_over_the_handle(second):
    handle = Handle([END])
    assert asyncio.run(over(Line([LOST], *second), handle)) == [END]
    assert len(handle.calls) == 1 - len(second)


def test_a_request_that_had_a_token_ends_with_its_engine():
    found = []
    with pytest.raises(EngineLostError):
        asyncio.run(over(Line([TokenChunk("a", (1,)), LOST], [END]), Handle(), found))
    assert found == [TokenChunk("a", (1,))]


def test_a_request_that_ends_engines_does_not_end_them_all():
    line = Line([LOST], [LOST], [LOST], [END])
    with pytest.raises(EngineLostError):
        asyncio.run(over(line, Handle()))
    assert line.is_there


def test_a_request_with_a_grammar_ends_one_engine_at_most():
    line = Line([LOST], [END])
    with pytest.raises(EngineLostError):
        asyncio.run(over(line, Handle(), grammar=Grammar("regex", "a")))
    assert line.is_there


def test_a_client_that_is_closed_lets_its_streams_end_and_then_its_handle_go():
    handle = Handle([TokenChunk("a", (1,)), END])

    async def check():
        client = ServeEngineClient(handle)
        chunks = client.generate("m", GenerateRequest("a", (1,)))
        await anext(chunks)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0.15)
        assert not handle.is_shut
        assert [chunk async for chunk in chunks] == [END]
        await closing
        assert handle.is_shut

    asyncio.run(check())
