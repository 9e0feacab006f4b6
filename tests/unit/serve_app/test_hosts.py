from __future__ import annotations

import asyncio

import httpx2
import pytest

from mulm.errors import ConflictError
from mulm.settings import Settings
from serve_app.hosts import host_in, is_loopback, require_guard
from serve_app.ingress import make_app
from serve_app.service import Service
from tests.unit.serve_app.conftest import KEY


def ask(app, host: str | None, *, server: str = "127.0.0.1", path: str = "/v1/models", **options):
    """One request that came in on the address `server`, as uvicorn tells it."""

    async def listener(scope, receive, send):
        scope["server"] = (server, 8000)
        if host is None:
            scope["headers"] = [(k, v) for k, v in scope["headers"] if k != b"host"]
        await app(scope, receive, send)

    async def once():
        transport = httpx2.ASGITransport(app=listener, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {KEY}", "host": host or "x"}
        headers |= options.pop("headers", {})
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(options.pop("method", "GET"), path, headers=headers)

    return asyncio.run(once())


def test_names_of_loopback():
    ours = ("localhost", "a.localhost", "127.0.0.1", "127.8.9.1", "::1")
    for name in ours:
        assert is_loopback(name)
    for name in ("", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0"):
        assert not is_loopback(name)
    assert host_in("[::1]:8000") == "::1"
    assert host_in("Localhost.:8000") == "localhost"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "192.168.0.4", "[fe80::1]"])
@pytest.mark.parametrize("path", ["/v1/models", "/api/v1/keys", "/healthz", "/no/such"])
def test_a_page_whose_name_was_bent_to_loopback_is_refused(scripted_app, host, path):
    for server in ("127.0.0.1", "::1"):
        reply = ask(scripted_app, host, path=path, server=server)
        assert reply.status_code == 421
        body = reply.json()
        code = body["code"] if path.startswith("/api/") else body["error"]["code"]
        assert code == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST", None])
def test_loopback_names_pass_and_so_does_who_names_nothing(scripted_app, host):
    assert ask(scripted_app, host).status_code == 200


def test_another_listener_and_a_configured_name_pass(scripted, served, keys, scripted_app):
    assert ask(scripted_app, "evil.example", server="192.168.0.4").status_code == 200
    settings = Settings(allowed_hosts="mulm.home, other.home")
    app = make_app(Service.of(served), keys, settings=settings)
    assert ask(app, "Mulm.Home:443").status_code == 200
    assert ask(app, "evil.example").status_code == 421


PREFLIGHT = {"origin": "https://a.example", "access-control-request-method": "POST"}


def test_pages_of_other_origins_may_not_call_unless_named(scripted, served, keys, scripted_app):
    refused = ask(scripted_app, "localhost", method="OPTIONS", headers=PREFLIGHT)
    assert "access-control-allow-origin" not in refused.headers
    plain = ask(scripted_app, "localhost", headers={"origin": "https://a.example"})
    assert "access-control-allow-origin" not in plain.headers
    settings = Settings(cors_origins="https://a.example")
    app = make_app(Service.of(served), keys, settings=settings)
    allowed = ask(app, "localhost", method="OPTIONS", headers=PREFLIGHT)
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    wrong = ask(app, "localhost", headers={"origin": "https://a.example", "authorization": "x"})
    assert wrong.status_code == 401
    assert wrong.headers["access-control-allow-origin"] == "https://a.example", "errors are read"
    other = ask(app, "localhost", headers={"origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


def test_nothing_listens_on_the_network_without_a_key():
    require_guard("127.0.0.1", has_keys=False)
    require_guard("0.0.0.0", has_keys=True)
    for host in ("0.0.0.0", "::", "192.168.0.4", "mulm.home"):
        with pytest.raises(ConflictError, match="no valid API key"):
            require_guard(host, has_keys=False)
