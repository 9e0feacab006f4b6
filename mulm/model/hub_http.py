"""How a hub is asked over HTTP: which redirects are followed, and by which proxies.

Called by `hf_hub`. Invariants: what stands in an unredirected header goes to one scheme, host and
port alone; an encrypted address is never left for a plain one; proxies are those that are given.
"""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from email.message import Message as Headers
from typing import IO, Any

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PORTS = {"http": 80, "https": 443}


def proxies_of(env: Mapping[str, str]) -> dict[str, str]:
    """`HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, also in small letters, which count first."""
    names = {kind: (f"{kind}_proxy", f"{kind.upper()}_PROXY") for kind in (*_PORTS, "no")}
    found = {kind: env.get(small) or env.get(large, "") for kind, (small, large) in names.items()}
    return {kind: value for kind, value in found.items() if value}


def opener(proxies: Mapping[str, str]) -> urllib.request.OpenerDirector:
    """HTTP and HTTPS alone: no files, no FTP."""
    made = urllib.request.OpenerDirector()
    for handler in (
        _Proxies(proxies), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(), _Redirects(),
    ):  # fmt: skip
        made.add_handler(handler)
    return made


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows them, but never from an encrypted address to a plain one; the token stays at home."""

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Headers
    ) -> Any:  # fmt: skip
        try:
            return super().http_error_302(req, fp, code, msg, headers)  # type: ignore[arg-type]
        except BaseException:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Headers,
        newurl: str,
    ) -> urllib.request.Request | None:  # fmt: skip
        if req.type == "https" and not newurl.startswith("https://"):
            raise urllib.error.URLError("it redirects to an address without encryption")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        token = req.unredirected_hdrs.get("Authorization")
        if following and token and _origin(newurl) == _origin(req.full_url):
            following.add_unredirected_header("Authorization", token)
        return following


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


class _Proxies(urllib.request.ProxyHandler):
    """Those that are given; a hub on this machine is asked without one."""

    def __init__(self, proxies: Mapping[str, str]) -> None:
        self._given = dict(proxies)
        super().__init__({scheme: url for scheme, url in proxies.items() if scheme != "no"})

    def proxy_open(
        self, req: urllib.request.Request, proxy: str, type: str  # noqa: A002 - the base's name
    ) -> Any:  # fmt: skip
        bypass: Callable[..., bool] = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
        is_local = urllib.parse.urlsplit(req.full_url).hostname in LOOPBACK
        if is_local or bypass(req.host, self._given):
            return None
        return super().proxy_open(req, proxy, type)
