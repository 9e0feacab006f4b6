"""A client of the control API of a server, here or elsewhere.

Used by the verbs of `mulm` that take `--url`. Invariants: what the server says is wrong is raised
as the error of that code; a request is sent again only where doing it twice is harmless, or where
it never arrived; all that waits has a deadline.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import httpx

from jobs.sent_file import SentFile, sent_name
from mulm.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    DeadlineError,
    MulmError,
    NotFoundError,
    OverloadedError,
    UnreachableError,
    error_classes,
)
from serve_app.keys import NEW_FIRST

API = "/api/v1"
_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 120.0
_PAUSES_S = (0.3, 1.0, 3.0)
"""Before the second, third and last try."""
_LONGEST_PAUSE_S = 10.0
_PASSING = frozenset({429, 502, 503, 504})
"""Answers of a server that is busy or starting, or of what stands before it."""
_SILENCE_S = 60.0
"""An event stream shows life every 15 s."""
_PAGE = 100
_BY_STATUS: Mapping[int, type[MulmError]] = {
    400: ConfigError,
    401: AuthError,
    403: AuthError,
    404: NotFoundError,
    409: ConflictError,
    412: ConflictError,
    413: ConfigError,
    429: OverloadedError,
    502: UnreachableError,
    503: UnreachableError,
    504: UnreachableError,
}
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class ConnectionLostError(UnreachableError):
    """The connection ended while something was expected on it."""


class Remote:
    """The control API at one address.

    Args:
        url: Such as `https://mulm.example` or `http://10.0.0.5:8000`; `/v1` or `/api` may follow.
        key: An API key of the scope `all`; for answers of models one for inference is enough.
        verify: Which certificates are trusted; by default those of the system and of SSL_CERT_FILE.
        sleep: Waits some seconds.

    Raises:
        ConfigError: that is no address of a server.
    """

    def __init__(
        self,
        url: str,
        key: str,
        verify: ssl.SSLContext | bool = True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url, self._sleep = address_of(url), sleep
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            trust_env=urlsplit(self.url).hostname not in _LOOPBACK,  # a proxy, but not to ourselves
            verify=ssl.create_default_context() if verify is True else verify,
        )

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """Release the connections."""
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """The JSON of a path below `/api/v1`, or of one that begins with `/`.

        Raises:
            UnreachableError, DeadlineError: nobody answers, also after some tries.
            MulmError: what the server says, of the class that its code names.
        """
        return self._send("GET", path, params=_given(params)).json()

    def text(self, path: str, **params: Any) -> str:
        """As `get`, for what is text."""
        return self._send("GET", path, params=_given(params)).text

    def post(self, path: str, body: Any = None, *, is_repeatable: bool = False) -> httpx.Response:
        """Send JSON; raises as `get`.

        What is not repeatable is sent again only where it was never received.
        """
        return self._send("POST", path, json=body, is_repeatable=is_repeatable)

    def upload(self, path: Path, purpose: str, key: str) -> Any:
        """Send a file to `/v1/files`; with the same idempotency key it is kept once.

        It is called there as `sent_name` says. Raises as `get`, OSError where it cannot be read,
        and ConflictError where its end is missing by then.
        """
        with path.open("rb") as opened:
            file = cast(BinaryIO, SentFile(opened, path))
            return self._send(
                "POST", "/v1/files", data={"purpose": purpose},
                files={"file": (sent_name(path), file)}, headers={"Idempotency-Key": key},
            ).json()  # fmt: skip

    def put(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        """Send JSON that takes the place of what is there; raises as `get`."""
        return self._send("PUT", path, json=body, headers=dict(headers or {})).json()

    def delete(self, path: str) -> Any:
        """Remove what is there; returns what the server tells of it. Raises as `get`."""
        reply = self._send("DELETE", path)
        return reply.json() if reply.content else None

    def items(self, path: str, limit: int = _PAGE, **params: Any) -> Iterator[dict[str, Any]]:
        """All items of a list, page by page of `limit`, each once.

        Where the one behind which the next page begins is removed meanwhile, the list is read anew,
        once: it may have grown at its beginning.
        """
        after, told, is_anew = None, set[str](), False
        while True:
            try:
                page = self.get(path, limit=limit, after=after, **params)
            except NotFoundError:
                if after is None or is_anew:
                    raise
                after, is_anew = None, True
                continue
            yield from (item for item in page["data"] if item.get("id") not in told)
            if not page.get("has_more") or not page["data"]:
                return
            told |= {item["id"] for item in page["data"]}
            after = page["data"][-1]["id"]

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], silence_s: float = _SILENCE_S
    ) -> Iterator[httpx.Response]:
        """An answer that comes in pieces; not tried again, since the caller knows from where.

        Raises:
            ConnectionLostError: it broke, or nothing has come for `silence_s`.
            MulmError: what the server says.
        """
        timeout = httpx.Timeout(silence_s, connect=_CONNECT_TIMEOUT_S)
        try:
            with self._http.stream(
                "GET", _path(path), headers=dict(headers), timeout=timeout
            ) as reply:
                if reply.is_error:
                    reply.read()
                    raise error_of(reply)
                yield reply
        except httpx.TransportError as error:
            raise ConnectionLostError(f"{self.url} does not answer: {_said(error)}") from None

    def _send(
        self, method: str, path: str, *, is_repeatable: bool = True, **options: Any
    ) -> httpx.Response:
        for pause_s in (*_PAUSES_S, None):
            try:
                reply = self._http.request(method, _path(path), **options)
            except httpx.TransportError as error:
                was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if pause_s is None or (was_sent and not is_repeatable):
                    raise self._unanswered(error) from None
            else:
                is_passing = _is_passing(reply) and is_repeatable
                if not reply.is_error:
                    return reply
                if pause_s is None or not is_passing:
                    raise error_of(reply)
                pause_s = max(pause_s, min(_LONGEST_PAUSE_S, _retry_after_s(reply)))
            self._sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    def _unanswered(self, error: httpx.TransportError) -> MulmError:
        if isinstance(error, httpx.ReadTimeout):
            return DeadlineError(
                f"{self.url} has not answered within {_READ_TIMEOUT_S:.0f} s",
                hint="it may have begun what was asked: look before asking again",
            )
        hint = "is that the address, and is the application up there? (--url, MULM_URL)"
        if isinstance(error, httpx.RemoteProtocolError) and self.url.startswith("http://"):
            hint = f"does it speak HTTPS? then https{self.url.removeprefix('http')}"
        return UnreachableError(f"no answer from {self.url}: {_said(error)}", hint=hint)


def address_of(url: str) -> str:
    """An address without what stands behind the host. Raises ConfigError."""
    text = url.strip().rstrip("/")
    for ending in ("/api/v1", "/v1", "/api"):
        text = text.removesuffix(ending)
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or parts.query or parts.username:
        raise ConfigError(
            f"{url[:80]!r} is no address of a server", hint="such as http://10.0.0.5:8000"
        )
    return text


def error_of(reply: httpx.Response) -> MulmError:
    """What the server says is wrong, from a problem or from OpenAI's error object."""
    classes = {cls.code: cls for cls in error_classes()}
    fallback = _BY_STATUS.get(reply.status_code, MulmError)
    try:
        told = reply.json()
        told = told.get("error", told)
        message, hint = str(told.get("detail") or told["message"]), str(told.get("hint") or "")
        kind = fallback if reply.status_code in (401, 403) else classes.get(str(told.get("code")))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, hint, kind = f"the server answered {reply.status_code}", "", None
    if reply.status_code == 401 and NEW_FIRST not in hint:
        hint = "--key, or MULM_API_KEY, is a key of that server"
    wait_s = _retry_after_s(reply)
    return (kind or fallback)(message, hint=hint, **({"retry_after_s": wait_s} if wait_s else {}))


def _is_passing(reply: httpx.Response) -> bool:
    """Whether it may be otherwise in a moment; so is what a lost connection still works on."""
    if reply.status_code != httpx.codes.CONFLICT:
        return reply.status_code in _PASSING
    return "idempotency_in_progress" in reply.text


def _path(path: str) -> str:
    return path if path.startswith("/") else f"{API}/{path}"


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _retry_after_s(reply: httpx.Response) -> float:
    """How long it asks to be left alone; 0 where it does not say."""
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0
