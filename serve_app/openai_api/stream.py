"""Server-sent events as OpenAI's clients read them.

Made by `answer`. Invariants: a stream ends with `[DONE]` or with an error event, never silently;
a client that goes away closes what the stream reads from.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mulm.errors import MulmError
from serve_app.errors import error_body

_log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"


class Closable(Protocol):
    """Something to be closed, any number of times."""

    async def aclose(self) -> None:
        """Close it."""


class EventStream(StreamingResponse):
    """An answer in events; closes its source however it ends.

    Args:
        objects: The events' content.
        source: What they are made from; it is closed even if nobody ever asked for an event.
    """

    def __init__(self, objects: AsyncGenerator[dict[str, Any], None], source: Closable) -> None:
        self._events = encode(objects)
        self._source = source
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(self._events, media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._source.aclose()


async def encode(objects: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    """Objects as events; an error after the first byte becomes the last event."""
    try:
        async for item in objects:
            yield event(item)
        yield DONE
    except MulmError as error:
        yield event(error_body(error))
    except Exception:  # noqa: BLE001 - the border: the status line has been sent
        _log.exception("stream failed")
        yield event(error_body(MulmError("something went wrong on our side")))
    finally:
        await objects.aclose()


def event(item: dict[str, Any]) -> bytes:
    """One event."""
    return (
        b"data: " + json.dumps(item, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
    )
