"""Who may call: API keys, compared by the SHA-256 of their text.

`AuthMiddleware` guards every route except those in `OPEN_PATHS`; `KeyRing` asks the ledger
for the digests and remembers them for a few seconds. Invariants: deny by default, also what
does not exist; a key's text is never stored or logged; comparing takes constant time; a ledger that
does not answer delays nobody whose key is known.
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

from mulm.errors import AuthError, NotRunningError
from serve_app.settings import KEYS_MAX_AGE_S

_log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/health"})
STALE_KEYS_MAX_AGE_S = 300.0
"""How long the known keys stay good while the ledger does not answer."""

_WAIT_AGE_S = 2 * KEYS_MAX_AGE_S
"""Keys older than this, as after a quiet hour, are asked for before they are believed."""

_RETRY_S = 1.0
_WAIT_S = 2.0

_HINT = "send the header `Authorization: Bearer <key>` with the key in MULM_HOME/api_key"


class KeyRing:
    """The valid digests, at most a few seconds old while the ledger answers.

    One task at a time asks the ledger, beside the requests. A request waits for it, and never for
    long, only when what is known is too old or does not hold its key.

    Args:
        fetch: Digest to key id, from the ledger; may block, so it runs in a thread.
        clock: Seconds.
        wait_s: Seconds that a request waits for the ledger at most.
    """

    def __init__(
        self,
        fetch: Callable[[], dict[str, str]],
        clock: Callable[[], float] = time.monotonic,
        wait_s: float = _WAIT_S,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._wait_s = wait_s
        self._digests: dict[str, str] = {}
        self._fetched_s = self._tried_s = float("-inf")
        self._is_late = False
        self._refreshing: asyncio.Task[None] | None = None

    async def verify(self, key: str) -> str:
        """The id of a valid key.

        Raises:
            AuthError: no such key.
            NotRunningError: the ledger has not answered for too long.
        """
        self._refresh_if_due()
        if self._age_s() > (STALE_KEYS_MAX_AGE_S if self._is_late else _WAIT_AGE_S):
            await self._wait()
        if self._age_s() > STALE_KEYS_MAX_AGE_S:
            raise NotRunningError("keys cannot be checked now", hint="try again in a moment")
        digest = digest_of(key)
        found = self._find(digest)
        if not found and not self._is_late:
            await self._wait()
            found = self._find(digest)
        if not found:
            raise AuthError("the API key is not valid", hint=_HINT)
        return found

    def look_again(self) -> None:
        """The keys have changed: the next request begins to ask, and one with a new key waits."""
        self._tried_s = float("-inf")
        self._fetched_s = min(self._fetched_s, self._clock() - KEYS_MAX_AGE_S - _RETRY_S)

    def _find(self, digest: str) -> str:
        found = ""
        for known, key_id in self._digests.items():
            if hmac.compare_digest(known, digest):
                found = key_id
        return found

    def _refresh_if_due(self) -> None:
        """Begin to ask, unless the answer is young or still on its way."""
        now_s = self._clock()
        is_due = self._age_s() > KEYS_MAX_AGE_S and now_s - self._tried_s > _RETRY_S
        if is_due and (self._refreshing is None or self._refreshing.done()):
            self._tried_s = now_s
            self._refreshing = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            self._digests = await asyncio.to_thread(self._fetch)
        except Exception as error:  # noqa: BLE001 - the border to the ledger, whatever carries it
            self._is_late = True
            _log.warning("ledger does not answer, known keys stay valid for now error=%r", error)
        else:
            self._is_late = False
            self._fetched_s = self._clock()

    async def _wait(self) -> None:
        """Let a question that is under way end; after `wait_s` the ledger counts as late."""
        if self._refreshing is None or self._refreshing.done():
            return
        done, _ = await asyncio.wait([self._refreshing], timeout=self._wait_s)
        self._is_late = self._is_late or not done

    def _age_s(self) -> float:
        return self._clock() - self._fetched_s


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
    """Lets requests with a valid key through."""

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
