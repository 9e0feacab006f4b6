"""What every request passes through; the order stands in `serve_app.ingress`.

Plain ASGI, so streams pass unbuffered. Invariant: an answer always carries a request id, and
a failure of whatever kind before the first byte is answered with the error object.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mulm.errors import MulmError
from serve_app.auth import OPEN_PATHS
from serve_app.errors import (
    error_response,
    half_a_character_response,
    late_body_response,
    no_json_response,
    too_large_response,
    too_many_values_response,
)
from serve_app.json_size import holds_too_much

_log = logging.getLogger(__name__)

_SHOWN_PATH_CHARS = 128
BODY_TIMEOUT_S = 120.0
"""In which a whole body comes, also over a slow link."""

_MOST_DIGITS = 18
"""Of a length: with more it is too large anyway."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class RequestIdMiddleware:
    """Gives every request an id, in its state and in the answer's `x-request-id`."""

    def __init__(self, app: ASGIApp, new_id: Callable[[], str]) -> None:
        self._app = app
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope.setdefault("state", {})["request_id"] = self._new_id()

        async def mark(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, mark)


class AccessLogMiddleware:
    """Logs each request at its end: whose it was, what it was answered, and how long that took."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._clock = app, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        begun_s, status = self._clock(), 0

        async def watch(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            state = scope["state"]
            _log.info(
                "request ended request=%s key=%s method=%s path=%r status=%s seconds=%.3f",
                state["request_id"],
                state.get("key_id", "none"),
                scope["method"],
                scope["path"][:_SHOWN_PATH_CHARS],
                status or "none",
                self._clock() - begun_s,
            )


class ErrorMiddleware:
    """Answers what other middleware raises, and whatever nobody expected."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; once it has begun to answer, errors go on to the server."""
        has_started = False

        async def watch(message: Message) -> None:
            nonlocal has_started
            has_started = has_started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            if has_started or scope["type"] != "http":
                raise
            await _answer(error, scope)(scope, receive, send)


class BodyMiddleware:
    """Takes in the whole body, or refuses it with 413 as soon as it exceeds `max_bytes`.

    One that does not come in time is refused with 408, one of too many values with 413 too, before
    it is parsed.

    Whatever the client says after it is that it leaves: then the work for it is cancelled.

    Args:
        app: What comes behind.
        max_bytes: Of a body.
        timeout_s: For a body to come.
        uploads: Routes, as (method, path), that read their body themselves, bounded by
            `serve_app.upload`.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        timeout_s: float = BODY_TIMEOUT_S,
        uploads: Collection[tuple[str, str]] = (),
    ) -> None:
        self._app = app
        self._max_bytes, self._timeout_s, self._uploads = max_bytes, timeout_s, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on a body that is complete."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) in self._uploads:
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await self._read(scope, receive)
        except TimeoutError:
            await late_body_response(self._timeout_s, scope)(scope, receive, send)
            return
        if body is None:
            await too_large_response(self._max_bytes, scope)(scope, receive, send)
            return
        if b"\0" in body:  # UTF-16 or 32, which the framework would read, and nobody has looked at
            await no_json_response(scope)(scope, receive, send)
            return
        if holds_too_much(body):
            await too_many_values_response(scope)(scope, receive, send)
            return
        if holds_half_a_character(body):
            await half_a_character_response(scope)(scope, receive, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        is_gone = asyncio.Event()

        async def replay() -> Message:
            if messages:
                return messages.pop()
            await is_gone.wait()
            return {"type": "http.disconnect"}

        work = asyncio.ensure_future(self._app(scope, replay, send))
        watching = asyncio.create_task(_watch(receive, is_gone, work))
        try:
            await work
        except asyncio.CancelledError:
            if not is_gone.is_set():
                work.cancel()
                raise
        finally:
            watching.cancel()

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, or None when it is too large. A client that left has an empty one."""
        if claimed_bytes(Headers(scope=scope)) > self._max_bytes:
            return None
        body = bytearray()
        has_more = True
        while has_more:
            message = await receive()
            body += message.get("body", b"")
            has_more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                return None
        return bytes(body)


def claimed_bytes(headers: Headers) -> int:
    """How large a client says that its body is; 0 where it does not say, or says nonsense."""
    claimed = headers.get("content-length", "")
    if not (claimed.isascii() and claimed.isdigit()):
        return 0
    return int(claimed[:_MOST_DIGITS])


def holds_half_a_character(body: bytes) -> bool:
    """Whether JSON spells a lone surrogate, which is no text and cannot be written as UTF-8."""
    if not _SURROGATE.search(body):
        return False
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):  # no JSON at all: whoever reads it says so
        return False
    return False


async def _watch(receive: Receive, is_gone: asyncio.Event, work: asyncio.Future[None]) -> None:
    """End the work for a client that leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    is_gone.set()
    work.cancel()


def _answer(error: Exception, scope: Scope) -> Response:
    if isinstance(error, MulmError):
        return error_response(error, scope)
    _log.error("request failed request=%s", scope["state"].get("request_id"), exc_info=error)
    return error_response(MulmError("something went wrong on our side"), scope)
