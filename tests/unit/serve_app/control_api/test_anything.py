"""Whatever is sent to the control API is answered as its description declares."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.openapi import document_of
from tests.unit.serve_app.control_api.conftest import KEY

TEXTS = st.text(max_size=40) | st.sampled_from(
    ["tiny", "tiny@1", "tiny@live", "text", "run_live", "key_2", "..", "%00", "a" * 5000, "٣"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
FIELDS = ("kind", "config", "version", "name", "scope", "dataset", "model", "steps", "extra")
BODIES = VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5)
WORDS = st.dictionaries(
    st.sampled_from(["limit", "after", "kind", "phase", "name", "every", "last", "lines", "x"]),
    TEXTS | st.integers().map(str),
    max_size=3,
)
HEADERS = st.dictionaries(
    st.sampled_from(["if-match", "if-none-match", "last-event-id", "idempotency-key"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20),
    max_size=2,
)


@pytest.fixture
def ended(ledger, versions):
    ledger.create_run("run_live", "train", {"name": "x"})
    ledger.set_phase("run_live", "succeeded")


@given(data=st.data())
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_sent_is_answered_as_declared(api, ended, data):
    document = document_of(api.app)
    operations = [
        (path, method)
        for path, methods in sorted(document["paths"].items())
        if path.startswith("/api/")
        for method in sorted(methods)
    ]
    path, method = data.draw(st.sampled_from(operations))
    declared = document["paths"][path][method]["responses"]
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    filled = path
    for name in names:
        kinds = st.sampled_from(["models", "datasets", "tokenizers"]) | TEXTS
        value = data.draw(kinds if name == "kinds" else TEXTS)
        filled = filled.replace(f"{{{name}}}", quote(value, safe="") or "x")
    options: dict[str, Any] = {"params": data.draw(WORDS), "headers": data.draw(HEADERS)}
    if method in ("post", "put"):
        options["content"] = json.dumps(data.draw(BODIES)).encode()
        options["headers"]["content-type"] = "application/json"
    reply = call(api.app, method, filled, options)
    assert reply.status_code < 500, (method, filled, reply.text)
    if reply.status_code not in (404, 405):  # a path with a slash in it is another path
        assert str(reply.status_code) in declared, (method, filled, reply.text)
    if reply.status_code >= 400 and "/api/" in str(reply.url):  # clients resolve `..` themselves
        assert reply.json()["status"] == reply.status_code


def call(app: Any, method: str, path: str, options: dict[str, Any]) -> httpx2.Response:
    async def once() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {KEY}"} | options.pop("headers")
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method.upper(), path, headers=headers, **options)

    return asyncio.run(once())
