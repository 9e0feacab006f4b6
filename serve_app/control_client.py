"""A client of the control API: plain HTTP in, our own errors out.

Used by whatever deploys, and by the command line. Invariants: a problem arrives as the error that
the server raised; nothing is sent twice.
"""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Any

import httpx

from mulm.errors import DeadlineError, MulmError, NotRunningError, error_classes

ROOT = "/api/v1"
_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 120.0


class ControlClient:
    """Speaks to one server.

    Args:
        url: Without `/api/v1`.
        key: Of the scope `all`.
        verify: What an HTTPS server is known by; the usual authorities by default.
        transport: Instead of the network.
    """

    def __init__(
        self,
        url: str,
        key: str,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url
        self._http = httpx.Client(
            base_url=f"{url}{ROOT}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            trust_env=False,
            verify=verify,
            transport=transport,
        )

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._http.close()

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """Send JSON, return JSON; None for an empty answer.

        Raises:
            NotRunningError: nobody answers there.
            DeadlineError: no answer in time.
            MulmError: what the server says, of the class that its code names.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            reply = self._http.request(method, path, json=body, headers=named)
        except httpx.TimeoutException:
            raise DeadlineError(f"{self._url} did not answer in time") from None
        except httpx.TransportError as error:
            raise NotRunningError(
                f"{self._url} does not answer: {error}", hint="is the application up?"
            ) from None
        if not reply.is_success:
            raise error_of(reply)
        return reply.json() if reply.content else None


def error_of(reply: httpx.Response) -> MulmError:
    """The error that a server raised, from the problem that it answered with."""
    try:
        told = reply.json()
        code, message, hint = told["code"], told["detail"], told.get("hint") or ""
    except (ValueError, KeyError, TypeError):
        return MulmError(f"the server answered {reply.status_code}", status=reply.status_code)
    classes = {each.code: each for each in error_classes()}
    return classes.get(code, MulmError)(message, hint=hint)
