"""Names of hosts: which of them mean this machine, and whether a request means us by one of ours.

A web page elsewhere can have its own name resolve to 127.0.0.1 and so reach what listens there,
with its own name as `Host` (DNS rebinding). Invariant: a request that came in on loopback names a
loopback host or one that the installation was told of.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mulm.errors import AuthError, ConflictError

_SHOWN_CHARS = 64


class HostError(AuthError):
    """The request is meant for another host."""

    code = "host_not_allowed"


class HostMiddleware:
    """Refuses what came in on loopback under a name that is not ours.

    Args:
        app: The application.
        allowed: Names beside those of loopback, as a proxy on this machine passes them on.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str] = ()) -> None:
        self._app, self._allowed = app, frozenset(name.lower() for name in allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application. Raises HostError."""
        if scope["type"] == "http" and is_loopback(str((scope.get("server") or ("",))[0])):
            header = Headers(scope=scope).get("host")
            # No browser leaves it out, and only browsers are led astray.
            if header is not None and not self._is_ours(host_in(header)):
                raise HostError(
                    f"this server is not {header[:_SHOWN_CHARS]!r}",
                    hint="set MULM_ALLOWED_HOSTS, should it be reached by that name",
                )
        await self._app(scope, receive, send)

    def _is_ours(self, name: str) -> bool:
        return name in self._allowed or is_loopback(name)


def host_in(header: str) -> str:
    """The name in a `Host` header, in lower case, without port, brackets and final dot."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower().removesuffix(".")


def is_loopback(host: str) -> bool:
    """Whether a name or an address always means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_guard(host: str, has_keys: bool) -> None:
    """Refuse to open the API to the network while nobody could be told from anybody.

    Raises:
        ConflictError: `host` is not loopback and there is no key.
    """
    if not has_keys and not is_loopback(host):
        raise ConflictError(
            f"there is no valid API key, so nothing listens on {host!r}",
            hint="`mulm down` and `mulm up` make one",
        )
