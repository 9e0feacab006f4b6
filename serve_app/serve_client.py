"""The ingress's client of one application's engines: an `EngineClient`.

Made by `serve_app.ingress_host`; the only place that knows Serve's errors. Requests go over the
engines' own connections. Where there is none, as when no engine runs yet or one cannot reach the
ingress, they go over the Serve handle, where Serve's autoscaler sees them wait. Invariants: nothing
of Ray's own words reaches a client, they go to the log; a request is asked for again only where it
has had no token, and not often, since it may be what ends engines.
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

from mulm.errors import MulmError, OverloadedError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.engine_client import EngineLostError, ModelChangingError
from serve_app.engine_line import EngineLine
from serve_app.engine_links import IngressAddress

_log = logging.getLogger(__name__)

_RETRY = "try again in a moment"
_READY_TIMEOUT_S = 2.0
_HEARD_LATELY_S = 10.0
_CHANGE_TIMEOUT_S = 60.0
"""How long a request looks for a replica that holds its model while models change."""

_MAX_LOSSES = 2
"""How many engines may end under a request that has had no token, before it is given up. With a
grammar none: reading those is the work of a library that may end its process."""

_POLL_S = 0.1


class ServeEngineClient:
    """The engines of one application.

    Args:
        handle: Of their deployment.
        line: Those that are connected.
        clock: Seconds.
    """

    def __init__(
        self,
        handle: Any,
        line: EngineLine | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handle = handle
        self._line = line or EngineLine()
        self._clock = clock
        self._heard_s = -_HEARD_LATELY_S
        self._streaming = handle.options(stream=True)
        self._n_streams = 0

    async def generate(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """As `EngineClient.generate`; replicas that hold another model are passed over."""
        begun_s, has_begun, n_losses = self._clock(), False, 0
        most_losses = _MAX_LOSSES if request.sampling.grammar is None else 0
        while True:
            spent_s = self._clock() - begun_s
            rest = replace(request, deadline_s=request.deadline_s - spent_s)
            ask = self._line.generate if self._line.is_there else self._stream
            try:
                async with aclosing(ask(model_id, rest)) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
            except ModelChangingError:
                if spent_s > min(_CHANGE_TIMEOUT_S, request.deadline_s):
                    raise
            except EngineLostError:
                n_losses += 1
                if has_begun or n_losses > most_losses or spent_s > request.deadline_s:
                    raise
                _log.warning("request is asked for again request=%s", request.request_id)
            else:
                return
            await asyncio.sleep(_POLL_S)

    async def _stream(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """Call and tokens over the handle."""
        response = self._streaming.generate.remote(model_id, request)
        n_open = request.n
        self._n_streams += 1
        try:
            async for chunk in response:
                self._heard_s = self._clock()
                n_open -= chunk.finish_reason is not None
                yield chunk
        except (RayError, RayServeException) as error:
            n_open = 0
            raise translate(error) from None
        finally:
            self._n_streams -= 1
            if n_open:
                response.cancel()

    async def is_ready(self) -> bool:
        """As `EngineClient.is_ready`; a replica too busy to say so shows it by its tokens."""
        if self._line.is_fresh:
            return True
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

    async def greet(self, address: IngressAddress) -> None:
        """Have all engines connect and report, also those that nobody has asked yet."""
        try:
            response = self._handle.broadcast("hello", address)
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

    async def close(self) -> None:
        """Let what was asked come to its end, then let the handle and its router go."""
        while self._n_streams:
            await asyncio.sleep(_POLL_S)
        await self._handle.shutdown_async()


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
    return EngineLostError("the engine went away", hint=_RETRY)
