"""What the OpenAI routes need of an engine, wherever it runs.

`serve_app.serve_client` implements it over a Serve handle; tests run an engine in process.
Invariants: whatever goes wrong on the way arrives as a `MulmError`; whoever stops reading
cancels the request in the engine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from mulm.errors import NotRunningError, OverloadedError
from mulm.messages import GenerateRequest, TokenChunk


class ModelChangingError(OverloadedError):
    """This replica holds another model, as happens while one replaces another."""


class EngineLostError(NotRunningError):
    """The engine went away, or the way to it; another one may answer what has no token yet."""


class EngineBusyError(OverloadedError):
    """An engine has no place, which the ingress did not know; nothing was generated."""


class EngineClient(Protocol):
    """The way to an engine."""

    def generate(self, model_id: str, request: GenerateRequest) -> AsyncGenerator[TokenChunk, None]:
        """Tokens as they come; the last chunk has a finish reason. Closing it cancels."""

    async def is_ready(self) -> bool:
        """Whether a replica answers, or is too busy to."""

    async def holds(self, model_id: str) -> bool:
        """Whether a replica generates with that model by now."""
