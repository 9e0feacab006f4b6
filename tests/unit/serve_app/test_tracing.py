from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mulm.errors import ConfigError, OverloadedError
from serve_app.ingress import make_app
from serve_app.service import Service
from serve_app.tracing import TracedClient, Tracing

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BODY = {"model": "tiny", "prompt": "the secret fox", "max_tokens": 3}


def spans_of(scripted, served, keys, raw, path="/v1/completions"):
    """The spans of one request, the innermost first."""
    exporter, tracing = InMemorySpanExporter(), Tracing()
    tracing.export_by(SimpleSpanProcessor(exporter))
    app = make_app(
        Service.of(replace(served, engine=TracedClient(scripted, tracing))), keys, tracing
    )

    async def ask():
        async with raw(app) as client:
            return await client.post(path, json=BODY, headers={"traceparent": PARENT})

    asyncio.run(ask())
    tracing.close()
    return exporter.get_finished_spans()


def test_a_request_continues_the_clients_trace_and_holds_its_generation(
    scripted, served, keys, raw
):
    scripted.groups, scripted.end = [[40], [41, 42]], "stop"
    generation, request = spans_of(scripted, served, keys, raw)
    assert request.name == "POST /v1/completions"
    assert f"{request.context.trace_id:032x}" in PARENT
    assert f"{request.parent.span_id:016x}" in PARENT
    assert request.attributes["http.response.status_code"] == 200
    assert generation.parent.span_id == request.context.span_id
    assert generation.attributes["gen_ai.usage.output_tokens"] == 3
    assert generation.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert generation.attributes["mulm.request_id"].startswith(
        request.attributes["mulm.request_id"]
    )
    assert [event.name for event in generation.events] == ["first token"]
    assert "secret" not in generation.to_json() + request.to_json()


def test_what_fails_is_an_error_in_both(scripted, served, keys, raw):
    scripted.error = OverloadedError("busy")
    generation, request = spans_of(scripted, served, keys, raw)
    assert generation.status.description == "overloaded"
    assert request.attributes["http.response.status_code"] == 503
    assert not request.status.is_ok


def test_open_paths_have_no_span(scripted, served, keys, raw):
    assert spans_of(scripted, served, keys, raw, "/healthz") == ()


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(
        __import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None
    )
    with pytest.raises(ConfigError) as told:
        Tracing().export_to("http://127.0.0.1:4318/v1/traces")
    assert "otel" in told.value.hint
