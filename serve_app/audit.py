"""Notes who asked for which change, and what became of it.

Behind `AuthMiddleware`, so that nobody without a key fills a log. Invariants: a change that is
acknowledged stands in the audit log; one whose note could not be written is answered with an error,
although it was made; a client that leaves changes nothing about that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mulm.errors import MulmError, NotRunningError
from mulm.redaction import redacted
from serve_app.errors import error_response
from serve_app.routes import CONTROL_ROOT

_log = logging.getLogger(__name__)

READING = frozenset({"GET", "HEAD", "OPTIONS"})
ROOTS = (CONTROL_ROOT, "/v1/files", "/v1/fine_tuning", "/v1/batches")
"""Under which requests change an installation; others have a model answer."""

LEFT = "left"
"""What became of a request whose client did not wait: it may have been done."""

_SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True)
class Act:
    """A change that somebody asked for."""

    who: str
    request_id: str
    method: str
    route: str
    subject: str
    outcome: str


class AuditMiddleware:
    """Notes each request that may change something, before it is answered.

    Args:
        app: The application.
        note: Writes to the ledger; may block.
    """

    def __init__(self, app: ASGIApp, note: Callable[[Act], None]) -> None:
        self._app, self._note = app, note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if not is_change(scope) or "key" not in scope.get("state", {}):
            await self._app(scope, receive, send)
            return
        is_noted = is_lost = False

        async def note_first(message: Message) -> None:
            nonlocal is_noted, is_lost
            if message["type"] == "http.response.start":
                is_noted = True
                try:
                    await self._write(scope, str(message["status"]), Headers(scope=message))
                except MulmError as error:
                    is_lost = True
                    await _unnoted(error, scope)(scope, receive, send)
            if not is_lost:
                await send(message)

        try:
            await self._app(scope, receive, note_first)
        except Exception:
            if not is_noted:
                is_noted = True
                await self._write(scope, "500", Headers())
            raise
        finally:
            if not is_noted:
                await self._write(scope, LEFT, Headers())

    async def _write(self, scope: Scope, outcome: str, headers: Headers) -> None:
        path = redacted(scope["path"])[:_SHOWN_CHARS]
        made = headers.get("location", "") if outcome.startswith("2") else ""
        act = Act(
            who=scope["state"]["key"].id,
            request_id=scope["state"]["request_id"],
            method=scope["method"],
            route=getattr(scope.get("route"), "path_format", path),
            subject=made or path,
            outcome=outcome,
        )
        await asyncio.to_thread(self._note, act)


def is_change(scope: Scope) -> bool:
    """Whether a request may change something of the installation."""
    if scope["type"] != "http" or scope["method"] in READING:
        return False
    return any(f"{scope['path']}/".startswith(f"{root.rstrip('/')}/") for root in ROOTS)


def _unnoted(error: MulmError, scope: Scope) -> ASGIApp:
    _log.error(
        "a change was not noted request=%s why=%s", scope["state"]["request_id"], error.message
    )
    told = NotRunningError(
        "the change could not be noted in the audit log, and may have been made",
        hint="look how it stands before you send it again",
    )
    return error_response(told, scope)
