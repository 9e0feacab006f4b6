from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest
from starlette.routing import BaseRoute

from mulm.errors import (
    ContextLengthError,
    MulmError,
    NotRunningError,
    OverloadedError,
    error_classes,
)
from serve_app.auth import OPEN_PATHS
from serve_app.ingress import make_app
from serve_app.service import Service
from serve_app.settings import MAX_BODY_BYTES

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
URL = "/v1/chat/completions"


def call(app, raw, method, path, **options):
    async def once():
        async with raw(app) as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def error_of(reply) -> dict:
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert reply.headers["x-request-id"].startswith("req_")
    return body["error"]


def routes_of(app) -> list[tuple[str, str]]:
    def walk(routes: list[BaseRoute]):
        for route in routes:
            inner = getattr(route, "original_router", None)
            if inner is not None:
                yield from walk(inner.routes)
            elif hasattr(route, "methods"):
                for method in route.methods:
                    yield method, route.path.replace("{name}", "tiny")

    return sorted(set(walk(app.routes)))


def test_every_route_but_health_needs_a_key(scripted_app, raw):
    found = routes_of(scripted_app)
    assert {path for _, path in found} >= {*OPEN_PATHS, "/v1/models", "/v1/models/tiny", URL}
    for method, path in [*found, ("GET", "/no/such"), ("GET", "/docs"), ("GET", "/openapi.json")]:
        for header in ("", "Bearer ", "Bearer wrong", "Basic x", "wrong"):
            reply = call(scripted_app, raw, method, path, headers={"authorization": header})
            if path in OPEN_PATHS:
                assert reply.status_code == 200
            else:
                assert reply.status_code == 401, (method, path)
                assert reply.headers["www-authenticate"] == "Bearer"
                if method != "HEAD":
                    assert error_of(reply)["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v1/nothing", 404, "not_found"), ("GET", URL, 405, "method_not_allowed")],
)
def test_unknown_routes_and_methods(scripted_app, raw, method, path, status, code):
    reply = call(scripted_app, raw, method, path)
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)


def test_a_body_that_is_too_large_is_refused(scripted_app, raw):
    reply = call(scripted_app, raw, "POST", URL, content=b"x" * (MAX_BODY_BYTES + 1))
    assert (reply.status_code, error_of(reply)["code"]) == (413, "request_too_large")


def test_a_body_that_lies_about_its_length_is_refused(scripted_app, raw):
    async def pieces():
        for _ in range(MAX_BODY_BYTES // 65536 + 1):
            yield b"x" * 65536

    reply = call(scripted_app, raw, "POST", URL, content=pieces())
    assert reply.status_code == 413


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"null", b"\xff", b'"text"'])
def test_a_body_that_is_no_object_is_refused(scripted_app, raw, body):
    headers = {"content-type": "application/json"}
    reply = call(scripted_app, raw, "POST", URL, content=body, headers=headers)
    assert reply.status_code == 400
    error_of(reply)


@pytest.mark.parametrize("kind", error_classes())
@pytest.mark.parametrize("stream", [False, True])
def test_errors_before_the_first_token_have_a_status(scripted, scripted_app, raw, kind, stream):
    scripted.error = kind("it broke", hint="mend it")
    reply = call(scripted_app, raw, "POST", URL, json=CHAT | {"stream": stream})
    assert reply.status_code >= 400
    assert error_of(reply)["message"] == "it broke (mend it)"
    if reply.status_code == 503:
        assert reply.headers["retry-after"] == "1"


def test_the_statuses_that_clients_act_on(scripted, scripted_app, raw):
    for error, status in [(OverloadedError("x"), 503), (ContextLengthError("x"), 400)]:
        scripted.error = error
        assert call(scripted_app, raw, "POST", URL, json=CHAT).status_code == status


def test_an_unexpected_error_tells_nothing_about_our_insides(scripted, scripted_app, raw, caplog):
    scripted.error = ValueError("secret path /root")
    reply = call(scripted_app, raw, "POST", URL, json=CHAT)
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert error_of(reply)["code"] == "internal"


@pytest.mark.parametrize("error", [MulmError("it broke"), ValueError("secret")])
def test_an_error_after_the_first_token_is_an_event(scripted, scripted_app, raw, error):
    scripted.groups, scripted.end = [[300]], error
    reply = call(scripted_app, raw, "POST", URL, json=CHAT | {"stream": True})
    assert reply.status_code == 200
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert json.loads(events[-1])["error"]["code"] == "internal"
    assert "secret" not in reply.text
    assert "[DONE]" not in reply.text


def test_a_stream_ends_with_done(scripted, scripted_app, raw):
    scripted.groups = [[300]]
    reply = call(scripted_app, raw, "POST", URL, json=CHAT | {"stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")


def test_a_missed_deadline_is_504(scripted, scripted_app, raw):
    scripted.groups, scripted.end = [[300]], "deadline"
    reply = call(scripted_app, raw, "POST", URL, json=CHAT)
    assert (reply.status_code, error_of(reply)["code"]) == (504, "deadline_exceeded")


def test_readiness_follows_model_and_engine(scripted, served, keys, raw):
    assert call(make_app(Service(scripted, served), keys), raw, "GET", "/readyz").is_success
    assert call(make_app(Service(scripted), keys), raw, "GET", "/readyz").status_code == 503
    assert call(make_app(Service(scripted), keys), raw, "GET", "/healthz").is_success
    scripted.ready = False
    reply = call(make_app(Service(scripted, served), keys), raw, "GET", "/readyz")
    assert reply.status_code == 503


def test_a_ledger_that_does_not_answer_is_503(scripted, served, raw):
    from serve_app.auth import KeyRing

    def fetch():
        raise NotRunningError("gone")

    reply = call(make_app(Service(scripted, served), KeyRing(fetch)), raw, "GET", "/v1/models")
    assert reply.status_code == 503


def test_the_ingress_stays_on_the_light_floor():
    code = "import sys, serve_app.ingress; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
