"""The ingress's client of the engine host: an `EngineClient` over a Serve handle.

Made by `serve_app.ingress_host`; the only place that knows Serve's errors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from mulm.errors import MulmError, NotRunningError, OverloadedError
from mulm.messages import GenerateRequest, TokenChunk

_RETRY = "try again in a moment"
_READY_TIMEOUT_S = 2.0
_HEARD_LATELY_S = 10.0


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
        """As `EngineClient.generate`."""
        response = self._streaming.generate.remote(model_id, request)
        has_ended = False
        try:
            async for chunk in response:
                self._heard_s = self._clock()
                has_ended = chunk.finish_reason is not None
                yield chunk
        except (RayTaskError, RayActorError, RayServeException) as error:
            has_ended = True
            raise translate(error) from None
        finally:
            if not has_ended:
                response.cancel()

    async def is_ready(self) -> bool:
        """As `EngineClient.is_ready`; a replica too busy to say so shows it by its tokens."""
        try:
            await asyncio.wait_for(self._handle.load.remote(), _READY_TIMEOUT_S)
        except TimeoutError:
            return self._clock() - self._heard_s < _HEARD_LATELY_S
        except (RayTaskError, RayActorError, RayServeException):
            return False
        return True


def translate(error: Exception) -> MulmError:
    """Ray's and Serve's errors in our words."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, MulmError):
        return cause
    if isinstance(error, BackPressureError):
        return OverloadedError("every replica is busy and the waiting line is full", hint=_RETRY)
    if isinstance(error, RayActorError | RayServeException):
        return NotRunningError("the engine went away", hint=_RETRY)
    return MulmError("the engine failed", hint="the replica's log says why")
