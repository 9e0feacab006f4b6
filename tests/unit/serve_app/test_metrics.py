from __future__ import annotations

import asyncio
import re
from contextlib import aclosing, suppress
from dataclasses import replace

import pytest

from mulm.accounts import Key
from mulm.engine.stats import EngineStats
from mulm.errors import OverloadedError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.auth import KeyRing
from serve_app.engine_report import EngineReport
from serve_app.ingress import make_app
from serve_app.key_text import digest_of
from serve_app.metrics import MeasuredClient, ServiceMetrics
from serve_app.service import Service
from tests.unit.serve_app.conftest import KEY, SECRET

STATS = EngineStats(2, 1, 30, 10, 4, 5, 600, 70, 800, 90)
REPORT = EngineReport("mdl_1", "eng_1", STATS, "tiny")
NAMES = {
    "mulm:num_requests_running", "mulm:num_requests_waiting", "mulm:num_tokens_waiting",
    "mulm:kv_cache_usage_perc", "mulm:num_preemptions_total", "mulm:prefix_cache_queries_total",
    "mulm:prefix_cache_hits_total", "mulm:spec_decode_num_draft_tokens_total",
    "mulm:spec_decode_num_accepted_tokens_total", "mulm:prompt_tokens_total",
    "mulm:generation_tokens_total",
    "mulm:time_to_first_token_seconds_count", "mulm:time_per_output_token_seconds_count",
    "mulm:e2e_request_latency_seconds_count", "mulm:request_success_total",
}  # fmt: skip


def values(text: str) -> dict[str, float]:
    lines = re.findall(r"^([^#\s{]+)\{([^}]*)\} (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, labels, value in lines if "le=" not in labels}


async def read(client, request=None):
    request = request or GenerateRequest("a", (1,))
    return [chunk async for chunk in client.generate("mdl_1", request)]


def test_names_and_numbers(scripted):
    scripted.groups, scripted.end = [[1], [2, 3]], "stop"
    seconds = iter([0.0, 0.5, 2.5])
    metrics = ServiceMetrics(lambda: [REPORT, REPORT])
    asyncio.run(read(MeasuredClient(scripted, metrics, lambda _id: "tiny", lambda: next(seconds))))
    text = metrics.text().decode()
    found = values(text)
    assert set(found) >= NAMES
    assert found["mulm:num_requests_running"] == 4
    assert found["mulm:kv_cache_usage_perc"] == pytest.approx(0.6)
    assert found["mulm:generation_tokens_total"] == 180
    assert found["mulm:time_to_first_token_seconds_sum"] == 0.5
    assert found["mulm:time_per_output_token_seconds_sum"] == 1.0
    assert found["mulm:e2e_request_latency_seconds_sum"] == 2.5
    assert 'mulm:request_success_total{finished_reason="stop",model_name="tiny"} 1.0' in text


def test_what_waits_at_ingresses_is_in_the_queue():
    report = replace(REPORT, n_at_ingresses=5, tokens_at_ingresses=700)
    found = values(ServiceMetrics(lambda: [report, REPORT]).text().decode())
    assert found["mulm:num_requests_waiting"] == (1 + 5) + 1
    assert found["mulm:num_tokens_waiting"] == (30 + 700) + 30


def test_a_request_counts_whole_though_nobody_asks_for_more_than_its_last_chunk(scripted):
    scripted.groups = [[1], [2, 3]]
    seconds = iter([0.0, 0.5, 2.5])
    metrics = ServiceMetrics(list)

    async def read_to_the_last():
        client = MeasuredClient(scripted, metrics, lambda _id: "tiny", lambda: next(seconds))
        async with aclosing(client.generate("mdl_1", GenerateRequest("a", (1,)))) as chunks:
            async for chunk in chunks:
                if chunk.finish_reason:
                    return

    asyncio.run(read_to_the_last())
    found = values(metrics.text().decode())
    assert found["mulm:e2e_request_latency_seconds_sum"] == 2.5
    assert found["mulm:time_per_output_token_seconds_sum"] == 1.0


def ask_measured(scripted, served, keys, raw, timeout_s, *, leaves=False):
    metrics = ServiceMetrics(list)
    measured = MeasuredClient(scripted, metrics, lambda _id: "tiny")
    app = make_app(Service.of(replace(served, engine=measured, request_timeout_s=timeout_s)), keys)
    body = {"model": "tiny", "prompt": "hi", "n": 2}

    async def ask():
        async with raw(app) as client:
            asking = asyncio.create_task(client.post("/v1/completions", json=body))
            while leaves and not scripted.requests:
                await asyncio.sleep(0.01)
            if not leaves:
                return (await asking).status_code
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            return None

    return asyncio.run(ask()), metrics.text().decode()


def test_a_request_whose_time_is_up_has_failed(scripted, served, keys, raw):
    scripted.groups, scripted.never_ends = [[70]], True
    status, text = ask_measured(scripted, served, keys, raw, 0.1)
    assert status == 504
    told = 'mulm:request_failure_total{code="deadline_exceeded",model_name="tiny"} 1.0'
    assert told in text
    assert "abort" not in text


def test_a_request_whose_client_left_is_counted(scripted, served, keys, raw):
    scripted.groups, scripted.never_ends = [[70]], True
    status, text = ask_measured(scripted, served, keys, raw, 1000, leaves=True)
    assert status is None, "nobody was told"
    assert 'mulm:request_success_total{finished_reason="abort",model_name="tiny"} 2.0' in text
    assert "mulm:request_failure_total{" not in text


def test_what_fails_is_no_success(scripted):
    scripted.error = OverloadedError("busy")
    metrics = ServiceMetrics(list)
    with pytest.raises(OverloadedError):
        asyncio.run(read(MeasuredClient(scripted, metrics, lambda _id: "tiny")))
    assert "mulm:request_success_total" not in values(metrics.text().decode())


def test_every_choice_counts_and_chunks_pass_unchanged(scripted):
    async def two_choices(_model_id, _request):
        yield TokenChunk("a", (1,), "stop", 0)
        yield TokenChunk("a", (1, 2), "length", 1)

    scripted.generate = two_choices
    metrics = ServiceMetrics(list)
    chunks = asyncio.run(
        read(MeasuredClient(scripted, metrics, lambda _id: "tiny"), GenerateRequest("a", (1,), n=2))
    )
    assert [chunk.index for chunk in chunks] == [0, 1]
    assert metrics.text().count(b"request_success_total{") == 2


def test_they_are_behind_the_key(scripted, served, keys, raw):
    metrics = ServiceMetrics(lambda: [REPORT])
    app = make_app(Service.of(served, metrics.text), keys)

    async def ask(headers):
        async with raw(app) as client:
            return await client.get("/metrics", headers=headers)

    reply = asyncio.run(ask({}))
    assert "mulm:num_requests_running" in reply.text
    assert reply.headers["content-type"].startswith("text/plain")
    assert asyncio.run(ask({"authorization": ""})).status_code == 401


def test_a_key_of_some_models_sees_no_numbers_of_all(scripted, served, raw):
    key = Key("key_1", "friend", 0.0, "inference", models=("tiny",))
    ring = KeyRing(lambda: {digest_of(KEY, SECRET): key}, SECRET)
    app = make_app(Service.of(served, ServiceMetrics(lambda: [REPORT]).text), ring)

    async def ask():
        async with raw(app) as client:
            return await client.get("/metrics")

    reply = asyncio.run(ask())
    assert reply.status_code == 403
    assert "tiny" not in reply.text


def test_a_counter_never_falls_when_engines_go():
    other = replace(REPORT, engine_id="eng_2")
    living = [REPORT, other]
    metrics = ServiceMetrics(lambda: living)

    def told():
        return values(metrics.text().decode())["mulm:generation_tokens_total"]

    assert told() == 180
    living.pop()
    assert told() == told() == 180
    living[0] = replace(REPORT, stats=replace(REPORT.stats, generated_tokens=95))
    assert told() == 185
    living.clear()
    assert told() == 185


@pytest.mark.parametrize(
    ("error", "end", "code"),
    [(OverloadedError("busy"), "stop", "overloaded"), (None, "deadline", "deadline_exceeded")],
)
def test_what_failed_is_counted_by_its_code_and_logged_with_its_request(
    scripted, caplog, error, end, code
):
    caplog.set_level("INFO", "serve_app")
    scripted.error, scripted.end = error, end
    metrics = ServiceMetrics(list)
    with suppress(OverloadedError):
        asyncio.run(read(MeasuredClient(scripted, metrics, lambda _id: "tiny")))
    text = metrics.text().decode()
    assert f'mulm:request_failure_total{{code="{code}",model_name="tiny"}} 1.0' in text
    assert "mulm:request_success_total{" not in text
    assert f"request=a model=tiny end={code} " in caplog.text
