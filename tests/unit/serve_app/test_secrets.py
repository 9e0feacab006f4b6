"""No key's text ever stands in a log, in an error's body or in a file but its own."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys

import httpx2
import pytest

from mulm.accounts import Key
from mulm.errors import MulmError
from mulm.log import configure_logging
from serve_app.auth import KeyRing
from serve_app.ingress import make_app
from serve_app.key_text import digest_of, make_text
from serve_app.service import Service

SECRET = b"s" * 32
TEXT = make_text("key_0123456789ab")
RANDOM = TEXT.split("_")[3]
ASKED = {"model": "tiny", "input": "x"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def all_logs(monkeypatch):
    """What our own logging writes at its most talkative."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("mulm", "actors", "serve_app")}
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logging("DEBUG")
    yield written.getvalue
    root.handlers[:], root.level = before
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def app(scripted, served):
    key = Key("key_0123456789ab", "first", 0.0, "all")
    ring = KeyRing(lambda: {digest_of(TEXT, SECRET): key}, SECRET)
    return make_app(Service.of(served), ring)


def ask(app, method: str, path: str, **options) -> httpx2.Response:
    async def once():
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {TEXT}"} | options.pop("headers", {})
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers=headers, **options)

    return asyncio.run(once())


def typo() -> str:
    return TEXT[:-1] + ("0" if TEXT[-1] != "0" else "1")


REQUESTS = [
    ("GET", "/v1/models", {}),
    ("GET", f"/v1/models/{TEXT}", {}),
    ("GET", f"/{TEXT}", {}),
    ("GET", f"/api/v1/runs/{TEXT}", {}),
    ("GET", f"/api/v1/{TEXT}?after={TEXT}", {}),
    ("POST", "/v1/chat/completions", {"json": CHAT | {"model": TEXT}}),
    ("POST", "/v1/chat/completions", {"json": CHAT | {TEXT: 1}}),
    ("POST", "/v1/chat/completions", {"json": CHAT | {"tool_choice": TEXT}}),
    ("POST", "/v1/chat/completions", {"json": CHAT | {"stream": True}}),
    ("POST", "/v1/completions", {"json": {"model": "tiny", "prompt": TEXT, "stop": TEXT}}),
    ("POST", "/v1/completions", {"content": TEXT.encode()}),
    ("POST", "/v1/responses", {"json": ASKED | {"previous_response_id": TEXT}}),
    ("GET", "/v1/models", {"headers": {"authorization": f"Bearer {typo()}"}}),
    ("GET", "/v1/models", {"headers": {"authorization": f"Bearer x{TEXT}"}}),
    ("GET", "/v1/models", {"headers": {"authorization": f"Basic {TEXT}"}}),
    ("GET", "/v1/models", {"headers": {"host": TEXT}}),
]  # fmt: skip


@pytest.mark.parametrize("error", [None, MulmError(f"no {TEXT}"), ValueError(f"no {TEXT}")])
@pytest.mark.parametrize("is_late", [False, True])
def test_no_key_stands_in_a_log_or_an_answer(app, scripted, all_logs, error, is_late):
    if is_late:
        scripted.groups, scripted.end = [[300]], error or "length"
    else:
        scripted.error = error
    answers = []
    for method, path, options in REQUESTS:
        reply = ask(app, method, path, **dict(options))
        answers.append(reply.text + json.dumps(dict(reply.headers)))
    assert any("mulm_sk_0123456789ab..." in answer for answer in answers), "they were echoed"
    assert RANDOM not in "".join(answers)
    logs = all_logs()
    assert "request ended" in logs
    assert "mulm_sk_0123456789ab..." in logs
    assert "key=key_0123456789ab" in logs, "whose request it was can be told"
    assert RANDOM not in logs


def test_what_a_client_may_hear_of_itself_is_not_changed(app, scripted):
    body = {"model": "tiny", "input": "x", "metadata": {"a": TEXT}}
    assert ask(app, "POST", "/v1/responses", json=body).json()["metadata"] == {"a": TEXT}
