"""The ingress's client of the engine host: an `EngineClient` over a Serve handle.

Made by `serve_app.ingress_host`; the only place that knows Serve's errors. Invariant: nothing of
Ray's own words reaches a client; they go to the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from mulm.errors import MulmError, NotRunningError, OverloadedError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.engine_client import ModelChangingError
from serve_app.prefix_key import key_of
from serve_app.token_channel import Mailbox, TokenReceiver, UnreachableError

_log = logging.getLogger(__name__)

_RETRY = "try again in a moment"
_READY_TIMEOUT_S = 2.0
_HEARD_LATELY_S = 10.0
_CHANGE_TIMEOUT_S = 60.0
"""How long a request looks for a replica that holds its model while models change."""

_CHANNEL_AGAIN_S = 30.0
"""How long tokens come over the handle after an engine could not connect."""

_CHANGE_POLL_S = 0.1
_ON_THE_WAY_S = 10.0
"""How much later than the end of its call a request's last token may come."""


class ServeEngineClient:
    """An `EngineClient` over a Serve handle.

    Args:
        handle: Of the engine's deployment.
        receiver: Hears the tokens; without one they come over the handle, at a cost.
        clock: Seconds.
    """

    def __init__(
        self,
        handle: Any,
        receiver: TokenReceiver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handle = handle
        self._receiver = receiver
        self._clock = clock
        self._heard_s = -_HEARD_LATELY_S
        self._channel_again_s = float("-inf")
        self._streaming = handle.options(stream=True)
        self._calls: set[asyncio.Task[None]] = set()

    async def generate(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """As `EngineClient.generate`; replicas that hold another model are passed over."""
        begun_s = self._clock()
        while True:
            spent_s = self._clock() - begun_s
            rest = replace(request, deadline_s=request.deadline_s - spent_s)
            try:
                async with aclosing(self._generate_once(model_id, rest)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except ModelChangingError:
                if spent_s > min(_CHANGE_TIMEOUT_S, request.deadline_s):
                    raise
            else:
                return
            await asyncio.sleep(_CHANGE_POLL_S)

    async def _generate_once(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        has_begun = False
        if self._receiver is not None and self._clock() >= self._channel_again_s:
            try:
                async with aclosing(self._receive(self._receiver, model_id, request)) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
            except UnreachableError as error:
                if has_begun:
                    raise
                _log.warning("tokens come over the handle reason=%s", error.message)
                self._channel_again_s = self._clock() + _CHANNEL_AGAIN_S
            else:
                return
        async with aclosing(self._stream(model_id, request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _receive(
        self, receiver: TokenReceiver, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """The call over the handle, the tokens over the channel."""
        reply_to = await receiver.reply_to()
        with receiver.mailbox(request.request_id) as mailbox:
            handle = self._handle
            if key := key_of(request.prompt_ids):
                handle = handle.options(session_id=key)
            response = handle.send.remote(model_id, request, reply_to)
            call = asyncio.create_task(_watch(response, mailbox))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            n_open = request.n
            try:
                while n_open:
                    item = await _next(mailbox, call)
                    if isinstance(item, Exception):
                        n_open = 0
                        raise item
                    self._heard_s = self._clock()
                    n_open -= item.finish_reason is not None
                    yield item
            finally:
                if n_open:
                    response.cancel()
                    call.cancel()

    async def _stream(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """Call and tokens over the handle."""
        response = self._streaming.generate.remote(model_id, request)
        n_open = request.n
        try:
            async for chunk in response:
                self._heard_s = self._clock()
                n_open -= chunk.finish_reason is not None
                yield chunk
        except (RayError, RayServeException) as error:
            n_open = 0
            raise translate(error) from None
        finally:
            if n_open:
                response.cancel()

    async def is_ready(self) -> bool:
        """As `EngineClient.is_ready`; a replica too busy to say so shows it by its tokens."""
        try:
            await asyncio.wait_for(self._handle.load.remote(), _READY_TIMEOUT_S)
        except BackPressureError:
            return True
        except TimeoutError:
            return self._clock() - self._heard_s < _HEARD_LATELY_S
        except (RayError, RayServeException) as error:
            _log.warning("engine is not ready error=%r", error)
            return False
        return True

    async def greet(self, receiver: TokenReceiver) -> None:
        """Have all engines connect and report, also those that nobody has asked yet."""
        try:
            response = self._handle.broadcast("hello", await receiver.reply_to())
            await asyncio.wait_for(response.results_async(return_exceptions=True), _READY_TIMEOUT_S)
        except (TimeoutError, RayError, RayServeException) as error:
            _log.debug("engines were not greeted error=%r", error)

    async def holds(self, model_id: str) -> bool:
        """As `EngineClient.holds`."""
        try:
            load = await asyncio.wait_for(self._handle.load.remote(), _CHANGE_TIMEOUT_S)
        except (TimeoutError, RayError, RayServeException):
            return False
        return bool(load["model_id"] == model_id)


async def _watch(response: Any, mailbox: Mailbox) -> None:
    """Tell the reader of a request's tokens how its call ended: an error, or None."""
    try:
        await response
    except (RayError, RayServeException) as error:
        mailbox.put_nowait(translate(error))
    else:
        mailbox.put_nowait(None)


async def _next(mailbox: Mailbox, call: asyncio.Task[None]) -> TokenChunk | Exception:
    """The next item; after the end of the call, what is still on its way has its time."""
    item = None
    if not call.done():
        item = await mailbox.get()
    try:
        async with asyncio.timeout(_ON_THE_WAY_S):
            while item is None:
                item = await mailbox.get()
    except TimeoutError:
        return NotRunningError("tokens were lost on their way", hint=_RETRY)
    return item


def translate(error: Exception) -> MulmError:
    """Ray's and Serve's errors in our words."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, MulmError):
        return cause
    if isinstance(error, BackPressureError):
        return OverloadedError("every replica is busy and the waiting line is full", hint=_RETRY)
    _log.error("engine call failed", exc_info=error)
    if isinstance(error, RayTaskError) and not isinstance(error, RayActorError):
        return MulmError("the engine failed", hint="the replica's log says why")
    return NotRunningError("the engine went away", hint=_RETRY)
