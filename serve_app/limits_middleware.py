"""Lets a key's requests in as its limits allow, and tells it what is left.

Behind `AuthMiddleware`, so that nobody without a key is counted. Invariant: whatever becomes of a
request, its ticket is closed.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mulm.errors import RateLimitedError
from serve_app.errors import error_response
from serve_app.limiter import Limiter


class LimitsMiddleware:
    """Counts requests with a key; the routes reserve tokens by the ticket in the state."""

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self._app, self._limiter = app, limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, or answer 429."""
        key = scope.get("state", {}).get("key")
        if key is None:  # an open path
            await self._app(scope, receive, send)
            return

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(dict(self._limiter.headers(key)))
            await send(message)

        try:
            ticket = self._limiter.admit(key)
        except RateLimitedError as error:
            await error_response(error, scope)(scope, receive, tell)
            return
        scope["state"]["ticket"] = ticket
        try:
            await self._app(scope, receive, tell)
        finally:
            ticket.close()
