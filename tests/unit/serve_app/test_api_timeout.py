"""A client's own time limit, which is never longer than the application's."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.ingress import make_app
from serve_app.service import Service
from tests.unit.serve_app.conftest import LocalEngine

BODIES = {
    "/v1/completions": {"prompt": "x", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2},
    "/v1/responses": {"input": "x", "max_output_tokens": 2},
}
EMBEDDED = {"/v1/embeddings": {"input": "x"}}


def ask(app, raw, url, fields, timeout: str | None = None):
    async def once():
        headers = {} if timeout is None else {"x-request-timeout": timeout}
        async with raw(app) as client:
            return await client.post(url, json={"model": "tiny"} | fields, headers=headers)

    return asyncio.run(once())


@pytest.mark.parametrize("url", BODIES)
@pytest.mark.parametrize(("timeout", "expected_s"), [
    (None, 600.0), ("2.5", 2.5), ("1e9", 600.0), ("inf", 600.0),
])  # fmt: skip
def test_the_shorter_time_holds(scripted_app, scripted, raw, url, timeout, expected_s):
    assert ask(scripted_app, raw, url, BODIES[url], timeout).status_code == 200
    assert scripted.requests[-1].deadline_s == expected_s


@pytest.mark.parametrize("url", BODIES | EMBEDDED)
@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "soon", ""])
def test_nonsense_is_refused(scripted_app, raw, url, timeout):
    reply = ask(scripted_app, raw, url, (BODIES | EMBEDDED)[url], timeout)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "invalid_value"), reply.text
    assert error["param"] == "x-request-timeout"


@pytest.mark.parametrize("url", BODIES)
def test_what_is_not_there_in_time_is_504(thread, served, keys, raw, url):
    app = make_app(Service.of(replace(served, engine=LocalEngine(thread))), keys)
    assert ask(app, raw, url, BODIES[url], "60").status_code == 200
    late = ask(app, raw, url, BODIES[url], "1e-9")
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_inputs_to_embed_share_the_time(scripted_app, scripted, raw):
    scripted.never_ends = True
    late = ask(scripted_app, raw, "/v1/embeddings", {"input": ["a", "b"]}, "0.05")
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert all(each.deadline_s <= 0.05 for each in scripted.requests)
