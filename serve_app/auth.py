"""Who may call: API keys, known by the digests of their texts.

`AuthMiddleware` guards every route except those in `OPEN_PATHS`; `KeyRing` asks the ledger
for the digests and remembers them for a few seconds. Invariants: deny by default, also what
does not exist; a key's text is never stored or logged; what was revoked is refused within
`KEYS_MAX_AGE_S` while the ledger answers; a ledger that does not delays nobody whose key is known.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mulm.accounts import Key
from mulm.errors import AuthError, NotRunningError
from serve_app.key_text import FOR_KEY, digest_of
from serve_app.keys import FIRST_KEY_NAME, NEW_FIRST
from serve_app.settings import KEYS_MAX_AGE_S
from serve_app.ui import files

_log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/health"}) | files.PATHS
"""Signs of life, and the files of the page, which hold no data."""

STALE_KEYS_MAX_AGE_S = 300.0
"""How long the known keys stay good while the ledger does not answer."""

_ASK_AGE_S = KEYS_MAX_AGE_S / 2
"""Keys older than this are asked for beside the requests; those older than `KEYS_MAX_AGE_S`, as
after a quiet hour, before they are believed."""

_RETRY_S = 1.0
_WAIT_S = 2.0

_HINT = (
    "send it in the header `Authorization`, behind the word `Bearer`; the first key is in"
    " MULM_HOME/api_key"
)


class ForbiddenError(AuthError):
    """A key that is valid may not do this."""

    code = "forbidden"


class KeyRing:
    """The valid digests, at most a few seconds old while the ledger answers.

    One task at a time asks the ledger, beside the requests. A request waits for it, and never for
    long, only when what is known is too old or does not hold its key.

    Args:
        fetch: Digest to key, from the ledger; may block, so it runs in a thread.
        secret: The installation's, which digests are made with.
        clock: Seconds.
        wait_s: Seconds that a request waits for the ledger at most.
        now_s: Seconds of Unix time, in which keys end.
    """

    def __init__(
        self,
        fetch: Callable[[], Mapping[str, Key]],
        secret: bytes,
        clock: Callable[[], float] = time.monotonic,
        wait_s: float = _WAIT_S,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.secret = secret
        self._fetch = fetch
        self._clock, self._now_s = clock, now_s
        self._wait_s = wait_s
        self._keys: Mapping[str, Key] = {}
        self._fetched_s = self._tried_s = float("-inf")
        self._is_late = False
        self._refreshing: asyncio.Task[None] | None = None

    async def verify(self, text: str) -> Key:
        """The valid key of that text.

        Raises:
            AuthError: no such key, or it has expired; a typo is known without the ledger.
            NotRunningError: the ledger has not answered for too long.
        """
        digest = digest_of(text, self.secret)
        self._refresh_if_older(_ASK_AGE_S)
        if self._age_s() > (STALE_KEYS_MAX_AGE_S if self._is_late else KEYS_MAX_AGE_S):
            await self._wait()
        if self._age_s() > STALE_KEYS_MAX_AGE_S:
            raise NotRunningError("keys cannot be checked now", hint="try again in a moment")
        if digest not in self._keys and not self._is_late:
            self._refresh_if_older(0.0)  # it may have been made a moment ago, elsewhere
            await self._wait()
        # How long the search takes tells nothing: nobody outside can choose a keyed digest, and
        # of an old key's digest no more than the table's own salted hash of it is compared.
        found = self._keys.get(digest)
        if found is None:
            raise AuthError("the API key is not valid", hint=_HINT)
        if found.expires_s is not None and found.expires_s <= self._now_s():
            hint = NEW_FIRST if found.name == FIRST_KEY_NAME else "ask for another one"
            raise AuthError("the API key has expired", hint=hint)
        return found

    def stand_in(self, key: Key, key_id: str) -> Key:
        """The key for which the first key asks, as the work that another key has begun does.

        Raises:
            ForbiddenError: another key than the first asks.
            AuthError: that key is not valid any more.
        """
        if key.name != FIRST_KEY_NAME:
            raise ForbiddenError("only the first key asks for others", hint=f"leave {FOR_KEY} away")
        for found in self._keys.values():
            is_over = found.expires_s is not None and found.expires_s <= self._now_s()
            if found.id == key_id and not is_over:
                return found
        raise AuthError("the key that has begun this is not valid any more")

    def look_again(self) -> None:
        """The keys have changed: the next request begins to ask, and one with a new key waits."""
        self._tried_s = float("-inf")
        self._fetched_s = min(self._fetched_s, self._clock() - KEYS_MAX_AGE_S - _RETRY_S)

    def _refresh_if_older(self, age_s: float) -> None:
        """Begin to ask, unless the answer is young or still on its way; once a second at most."""
        now_s = self._clock()
        is_due = self._age_s() > age_s and now_s - self._tried_s > _RETRY_S
        if is_due and (self._refreshing is None or self._refreshing.done()):
            self._tried_s = now_s
            self._refreshing = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        asked_s = self._clock()
        try:
            self._keys = await asyncio.to_thread(self._fetch)
        except Exception as error:  # noqa: BLE001 - the border to the ledger, whatever carries it
            self._is_late = True
            _log.warning("ledger does not answer, known keys stay valid for now error=%r", error)
        else:
            self._is_late = False
            self._fetched_s = asked_s

    async def _wait(self) -> None:
        """Let a question that is under way end; after `wait_s` the ledger counts as late."""
        if self._refreshing is None or self._refreshing.done():
            return
        done, _ = await asyncio.wait([self._refreshing], timeout=self._wait_s)
        self._is_late = self._is_late or not done

    def _age_s(self) -> float:
        return self._clock() - self._fetched_s


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
            headers = Headers(scope=scope)
            key = await self._keys.verify(bearer(headers))
            if (key_id := headers.get(FOR_KEY)) is not None:
                key = self._keys.stand_in(key, key_id)
            scope.setdefault("state", {}).update(key=key, key_id=key.id)
        elif scope["type"] == "websocket":
            raise AuthError("there are no websockets here")
        await self._app(scope, receive, send)
