"""Server-sent events as OpenAI's clients read them.

Made by `answer`. Invariants: a stream ends with `[DONE]` or with an error event, never silently;
a client that goes away, or reads nothing for a while, closes what the stream reads from; while
there is nothing to say a comment shows that the connection lives.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from mulm.errors import MulmError
from serve_app.errors import error_body

_log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": still at work\n\n"
"""A comment, which clients pass over."""

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, whole or as server-sent events.",
        "content": {"text/event-stream": {"schema": {}}},
    }
}
"""For routes whose answer may be an `EventStream`."""

HEARTBEAT_S = 15.0
WRITE_TIMEOUT_S = 60.0
"""How long a client may read nothing while its stream has something to say."""


Encode = Callable[[AsyncGenerator[dict[str, Any], None]], AsyncGenerator[bytes, None]]


class Closable(Protocol):
    """Something to be closed, any number of times."""

    async def aclose(self) -> None:
        """Close it."""


class EventStream(StreamingResponse):
    """An answer in events; closes its source however it ends.

    Args:
        objects: The events' content.
        source: What they are made from; it is closed even if nobody ever asked for an event.
        heartbeat_s: Seconds of silence after which a comment is sent.
        write_timeout_s: Seconds in which a client has to read what it is sent.
        encode: Writes objects as events.
    """

    def __init__(
        self,
        objects: AsyncGenerator[dict[str, Any], None],
        source: Closable,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
        encode: Encode | None = None,
    ) -> None:
        self._events = (encode or encode_chunks)(objects)
        self._source = source
        self._heartbeat_s, self._write_timeout_s = heartbeat_s, write_timeout_s
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(self._events, media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._source.aclose()

    async def stream_response(self, send: Send) -> None:
        """Send what there is, and a sign of life where there is nothing."""
        loop = asyncio.get_running_loop()
        last_s = loop.time()
        sending = asyncio.current_task()
        is_deaf = False

        async def send_soon(message: Message) -> None:
            nonlocal last_s
            last_s = loop.time()
            async with asyncio.timeout(self._write_timeout_s):
                await send(message)

        async def show_life() -> None:
            nonlocal is_deaf
            try:
                while True:
                    await asyncio.sleep(max(0.0, last_s + self._heartbeat_s - loop.time()))
                    if loop.time() - last_s >= self._heartbeat_s:
                        await send_soon(_more(HEARTBEAT))
            except TimeoutError:
                is_deaf = True
                assert sending is not None
                sending.cancel()

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        heart = asyncio.create_task(show_life())
        try:
            async for event in self._events:
                await send_soon(_more(event))
            heart.cancel()
            await send_soon({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            is_deaf = True
        except asyncio.CancelledError:
            if not is_deaf:
                raise
        finally:
            heart.cancel()
        if is_deaf:
            _log.warning("a client read nothing for %g s", self._write_timeout_s)


def _more(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def encode_chunks(
    objects: AsyncGenerator[dict[str, Any], None],
) -> AsyncGenerator[bytes, None]:
    """Objects as events, and the mark of their end unless the last is an error."""
    has_failed = False
    async for item in catch(objects, error_body):
        has_failed = "error" in item
        yield event(item)
    if not has_failed:
        yield DONE


async def catch(
    objects: AsyncGenerator[dict[str, Any], None], tell: Callable[[MulmError], dict[str, Any]]
) -> AsyncGenerator[dict[str, Any], None]:
    """The same objects; an error after the first byte becomes the last of them."""
    try:
        async for item in objects:
            yield item
    except MulmError as error:
        yield tell(error)
    except Exception:  # noqa: BLE001 - the border: the status line has been sent
        _log.exception("stream failed")
        yield tell(MulmError("something went wrong on our side"))
    finally:
        await objects.aclose()


def event(item: dict[str, Any], name: str = "", number: str = "") -> bytes:
    """One event, in ASCII: some clients take a character such as U+2028 for the end of a line."""
    head = f"id: {number}\n" if number else ""
    head += f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(item, separators=(',', ':'))}\n\n".encode()
