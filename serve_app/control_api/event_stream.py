"""Streams of events of the control API, for routes that tell what happens as it happens.

Invariants: each event has its number as its id, so that a client goes on behind the last that it
has seen; an error after the first byte is an event of the kind `error` with the problem.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import Header, Request

from mulm.errors import ConfigError, MulmError
from serve_app.errors import problem_body, status_of
from serve_app.openai_api.stream import EventStream, catch, event

EVENT_STREAM = "text/event-stream"

_MAX_DIGITS = 18

LastEventId = Annotated[str | None, Header(max_length=32)]

T = TypeVar("T")


def wants_stream(request: Request) -> bool:
    """Whether a client asks for events as they happen, not for a page of them."""
    return EVENT_STREAM in request.headers.get("accept", "")


def begin_behind(last_event_id: str | None, after: int) -> int:
    """The number behind which a stream begins: that of the header, else that of the query.

    Raises:
        ConfigError: the header is no number of an event.
    """
    if last_event_id is None:
        return after
    if not last_event_id.isdecimal() or len(last_event_id) > _MAX_DIGITS:
        raise ConfigError(
            f"Last-Event-ID {last_event_id[:32]!r} is no number of an event", param="Last-Event-ID"
        )
    return int(last_event_id)


def event_stream(
    request: Request,
    events: AsyncGenerator[T, None],
    describe: Callable[[T], dict[str, Any]],
    first: T | None = None,
) -> EventStream:
    """The answer.

    Args:
        request: Whose id a problem carries.
        events: What is told; it is closed when the client leaves.
        describe: An event as JSON, with `id` and `kind`.
        first: What was taken from `events` already.
    """

    async def told() -> AsyncGenerator[dict[str, Any], None]:
        if first is not None:
            yield describe(first)
        async for found in events:
            yield describe(found)

    return EventStream(told(), events, encode=partial(_encode, request))


async def _encode(
    request: Request, events: AsyncGenerator[dict[str, Any], None]
) -> AsyncGenerator[bytes, None]:
    def tell(error: MulmError) -> dict[str, Any]:
        param = error.details.get("param")
        return problem_body(
            error.message, status_of(error), error.code, request.scope, error.hint, param
        )

    async for item in catch(events, tell):
        yield event(item, item.get("kind", "error"), item.get("id", ""))
