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

_log = logging.getLogger(__name__)

_RETRY = "try again in a moment"
_READY_TIMEOUT_S = 2.0
_HEARD_LATELY_S = 10.0
_CHANGE_TIMEOUT_S = 60.0
"""How long a request looks for a replica that holds its model while models change."""

_CHANGE_POLL_S = 0.1


class ServeEngineClient:
    """An `EngineClient` over a Serve handle."""

    def __init__(self, handle: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._handle = handle
        self._clock = clock
        self._heard_s = -_HEARD_LATELY_S
        self._streaming = handle.options(stream=True)

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
        response = self._streaming.generate.remote(model_id, request)
        has_ended = False
        try:
            async for chunk in response:
                self._heard_s = self._clock()
                has_ended = chunk.finish_reason is not None
                yield chunk
        except (RayError, RayServeException) as error:
            has_ended = True
            raise translate(error) from None
        finally:
            if not has_ended:
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

    async def holds(self, model_id: str) -> bool:
        """As `EngineClient.holds`."""
        try:
            load = await asyncio.wait_for(self._handle.load.remote(), _CHANGE_TIMEOUT_S)
        except (TimeoutError, RayError, RayServeException):
            return False
        return bool(load["model_id"] == model_id)


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
