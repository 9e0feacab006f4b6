"""Limits over HTTP: what is answered, what is told in headers, and what is settled how."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import openai
import pytest

from mulm.accounts import Key, KeyLimits, Rates
from mulm.errors import OverloadedError
from serve_app.auth import KeyRing
from serve_app.ingress import make_app
from serve_app.key_text import digest_of
from serve_app.limiter import Limiter
from serve_app.service import Service
from serve_app.usage_writer import UsageWriter
from tests.unit.serve_app.conftest import KEY, SECRET, LocalEngine

COMPLETION = {"model": "tiny", "prompt": [40] * 5, "max_tokens": 20}


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Setup:
    """An application whose only key has limits, and what it has written of usage."""

    def __init__(self, served, rates: Rates | None = None, **limits: int) -> None:
        self.rows: list = []
        key = Key("key_1", "friend", 0.0, "inference", limits=KeyLimits(**limits))
        ring = KeyRing(lambda: {digest_of(KEY, SECRET): key}, SECRET)
        self.clock = Clock()
        self.usage = UsageWriter(self.write)
        asyncio.run(self.usage.flush())
        self.limiter = Limiter(self.usage, rates or Rates(), self.clock)
        self.app = make_app(Service.of(served), ring, limiter=self.limiter)

    def write(self, _writer, _seq, rows):
        self.rows += rows
        totals: dict[str, int] = {}
        for row in self.rows:
            totals[row.key_id] = totals.get(row.key_id, 0) + row.tokens
        return totals

    def used(self) -> list[tuple]:
        asyncio.run(self.usage.flush())
        return [(r.key_id, r.model, r.requests, r.input_tokens, r.output_tokens) for r in self.rows]


@pytest.fixture
def setup(served):
    return lambda **options: Setup(served, **options)


def call(app, raw, method="POST", path="/v1/completions", **options):
    async def once():
        async with raw(app) as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def test_requests_are_counted_told_and_refused_with_the_time_to_wait(setup, raw):
    app = setup(requests_per_minute=2).app
    first = call(app, raw, "GET", "/v1/models")
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert "x-ratelimit-limit-tokens" not in first.headers
    assert call(app, raw, "GET", "/v1/nothing").headers["x-ratelimit-remaining-requests"] == "0"
    refused = call(app, raw, "GET", "/v1/models")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (429, "rate_limit_exceeded")
    assert error["type"] == "rate_limit_error"
    assert refused.headers["retry-after"] == "30"
    assert refused.headers["retry-after-ms"] == "30000"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == "60.000s"
    assert refused.headers["x-request-id"].startswith("req_")
    problem = call(app, raw, "GET", "/api/v1/runs")
    assert (problem.status_code, problem.json()["code"]) == (429, "rate_limit_exceeded")
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.headers["retry-after"] == "30"
    assert call(app, raw, "GET", "/healthz").status_code == 200, "open paths are not counted"


def test_the_official_client_waits_as_it_is_told(setup, client, monkeypatch):
    made = setup(requests_per_minute=1)
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        made.clock.now_s += seconds

    async def run():
        patient = client(made.app).with_options(max_retries=2)
        await patient.models.list()
        monkeypatch.setattr("anyio.sleep", sleep)
        await patient.models.list()
        made.clock.now_s += 0.5
        with pytest.raises(openai.RateLimitError) as caught:
            await client(made.app).models.list()
        assert caught.value.code == "rate_limit_exceeded"

    asyncio.run(run())
    assert slept == [pytest.approx(60, abs=0.1)]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_tokens_are_reserved_at_the_door_and_settled_at_the_end(setup, scripted, raw, is_streamed):
    made = setup(tokens_per_minute=100)
    scripted.groups = [[300], [300, 300]]
    reply = call(made.app, raw, json=COMPLETION | {"stream": is_streamed})
    assert reply.headers["x-ratelimit-limit-tokens"] == "100"
    assert reply.headers["x-ratelimit-remaining-tokens"] == "75", "5 of the prompt and 20 at most"
    later = call(made.app, raw, "GET", "/v1/models")
    assert later.headers["x-ratelimit-remaining-tokens"] == "92"
    assert made.used() == [("key_1", "tiny", 1, 5, 3)]
    refused = call(made.app, raw, json=COMPLETION | {"max_tokens": 90})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert len(scripted.requests) == 1, "no engine was asked"
    assert made.limiter.reserved == {}


def test_every_choice_and_every_prompt_is_reserved(setup, raw):
    made = setup(tokens_per_minute=1000)
    body = COMPLETION | {"prompt": [[40] * 5, [40] * 3], "n": 2, "best_of": 3}
    reply = call(made.app, raw, json=body)
    assert reply.headers["x-ratelimit-remaining-tokens"] == str(1000 - 8 - 2 * 3 * 20)


def test_what_an_engine_refused_costs_nothing_but_the_request(setup, scripted, raw):
    made = setup(tokens_per_minute=100, requests_per_minute=10)
    scripted.error = OverloadedError("full")
    reply = call(made.app, raw, json=COMPLETION)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    after = call(made.app, raw, "GET", "/v1/models").headers
    assert after["x-ratelimit-remaining-tokens"] == "100"
    assert after["x-ratelimit-remaining-requests"] == "8"
    assert made.used() == []


@pytest.mark.parametrize(("groups", "n_output"), [([], 0), ([[300, 300]], 2)])
def test_a_client_that_leaves_pays_for_what_was_done(setup, scripted, raw, groups, n_output):
    made = setup(tokens_per_minute=100, max_concurrent=1)
    scripted.groups, scripted.never_ends = groups, True

    async def leave():
        async with raw(made.app) as client:
            body = COMPLETION | {"stream": True}
            work = asyncio.create_task(client.post("/v1/completions", json=body))
            while not scripted.requests:  # a deadline is that of the whole
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    asyncio.run(asyncio.wait_for(leave(), 30.0))
    assert made.used() == [("key_1", "tiny", 1, 5, n_output)]
    after = call(made.app, raw, "GET", "/v1/models").headers
    assert after["x-ratelimit-remaining-tokens"] == str(100 - 5 - n_output)
    scripted.never_ends = False
    assert call(made.app, raw, json=COMPLETION).status_code == 200, "its place is free"


def test_more_than_the_places_at_a_time_is_refused(setup, scripted, raw):
    made = setup(max_concurrent=1)
    scripted.never_ends = True

    async def run():
        async with raw(made.app) as client:
            work = asyncio.create_task(client.post("/v1/completions", json=COMPLETION))
            await asyncio.sleep(0.1)
            refused = await client.post("/v1/completions", json=COMPLETION)
            assert (await client.get("/v1/models")).status_code == 200
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            return refused

    refused = asyncio.run(run())
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")


def test_a_spent_quota_is_403_and_says_what_is_left(setup, scripted, raw):
    made = setup(token_quota=30)
    scripted.groups = [[300] * 4]
    assert call(made.app, raw, json=COMPLETION).status_code == 200
    reply = call(made.app, raw, json=COMPLETION)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (403, "insufficient_quota")
    assert error["type"] == "insufficient_quota"
    assert "21 are left" in error["message"]
    assert call(made.app, raw, json=COMPLETION | {"max_tokens": 16}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/embeddings", {"input": "hi"}),
    ],
)
def test_each_endpoint_that_asks_a_model_reserves(setup, scripted, raw, path, body):
    made = setup(tokens_per_minute=1)
    spent = Key("key_1", "friend", 0.0, "inference", limits=KeyLimits(tokens_per_minute=1))
    made.limiter.admit(spent).reserve("tiny", 1)
    assert call(made.app, raw, path=path, json={"model": "tiny"} | body).status_code == 429
    assert scripted.requests == []


def test_embeddings_count_their_inputs(thread, served, raw):
    made = Setup(replace(served, engine=LocalEngine(thread)), tokens_per_minute=100)
    reply = call(made.app, raw, path="/v1/embeddings", json={"model": "tiny", "input": [[40] * 7]})
    assert reply.headers["x-ratelimit-remaining-tokens"] == "93"
    assert reply.status_code == 200, reply.text
    assert made.used() == [("key_1", "tiny", 1, 7, 0)]


def test_the_servers_own_limit_is_429_too(setup, raw):
    made = setup(rates=Rates(requests_per_minute=1))
    assert call(made.app, raw, "GET", "/v1/models").status_code == 200
    refused = call(made.app, raw, "GET", "/v1/models")
    assert refused.status_code == 429
    assert "the server's limit" in refused.json()["error"]["message"]
