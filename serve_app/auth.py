"""Who may call: API keys, compared by the SHA-256 of their text.

`AuthMiddleware` guards every route except the two in `OPEN_PATHS`; `KeyRing` asks the ledger
for the digests and remembers them for a few seconds. Invariants: deny by default, also what
does not exist; a key's text is never stored or logged; comparing takes constant time.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mulm.errors import AuthError, MulmError
from serve_app.settings import KEYS_MAX_AGE_S

_log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
STALE_KEYS_MAX_AGE_S = 300.0
"""How long the known keys stay good while the ledger does not answer."""

_HINT = "send the header `Authorization: Bearer <key>` with the key in MULM_HOME/api_key"


class KeyRing:
    """The valid digests, at most a few seconds old.

    Args:
        fetch: Digest to key id, from the ledger; may block, so it runs in a thread.
        clock: Seconds.
    """

    def __init__(
        self, fetch: Callable[[], dict[str, str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = asyncio.Lock()
        self._digests: dict[str, str] = {}
        self._fetched_s: float | None = None

    async def verify(self, key: str) -> str:
        """The id of a valid key.

        Raises:
            AuthError: no such key.
            MulmError: the ledger has not answered for too long.
        """
        digest = digest_of(key)
        found = ""
        for known, key_id in (await self._current()).items():
            if hmac.compare_digest(known, digest):
                found = key_id
        if not found:
            raise AuthError("the API key is not valid", hint=_HINT)
        return found

    async def _current(self) -> dict[str, str]:
        async with self._lock:
            if self._age_s() > KEYS_MAX_AGE_S:
                await self._refresh()
            return self._digests

    async def _refresh(self) -> None:
        try:
            self._digests = await asyncio.to_thread(self._fetch)
        except MulmError:
            if self._age_s() > STALE_KEYS_MAX_AGE_S:
                raise
            _log.warning("ledger does not answer, known keys stay valid for now")
        else:
            self._fetched_s = self._clock()

    def _age_s(self) -> float:
        return float("inf") if self._fetched_s is None else self._clock() - self._fetched_s


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def bearer(headers: Headers) -> str:
    """The key in the `Authorization` header. Raises AuthError."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise AuthError("an API key is required", hint=_HINT)
    return key.strip()


class AuthMiddleware:
    """Lets requests with a valid key through; notes its id in the request's state."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for a valid key. Raises AuthError."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            key_id = await self._keys.verify(bearer(Headers(scope=scope)))
            scope.setdefault("state", {})["key_id"] = key_id
        elif scope["type"] == "websocket":
            raise AuthError("there are no websockets here")
        await self._app(scope, receive, send)
