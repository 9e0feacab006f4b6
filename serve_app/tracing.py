"""Traces of requests, sent to an OpenTelemetry collector where one is named.

Held by the ingress: a span for each HTTP request, which continues a client's trace, and inside it
one for what each prompt's generation took. Names of attributes are those of OpenTelemetry's
semantic conventions for HTTP and for generative AI. Invariants: no text of a prompt or an answer is
part of a span; a collector that is away delays nobody.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from opentelemetry.propagate import extract
from opentelemetry.trace import NoOpTracer, SpanKind, StatusCode, Tracer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mulm.errors import ConfigError, MulmError
from mulm.messages import GenerateRequest, TokenChunk
from mulm.redaction import redacted
from serve_app.auth import OPEN_PATHS
from serve_app.engine_client import EngineClient

_SERVICE = "mulm"
_SHOWN_PATH_CHARS = 128


class Tracing:
    """Makes spans; until it is told where to, of the kind that costs nothing."""

    def __init__(self) -> None:
        self.tracer: Tracer = NoOpTracer()
        self._provider: Any = None

    def export_to(self, endpoint: str) -> None:
        """Send spans to a collector, by OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`.

        Raises:
            ConfigError: the extra is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError:
            raise ConfigError(
                "traces need a package that is not installed",
                hint="pip install -c constraints.txt -e '.[app,otel]'",
            ) from None
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self.export_by(BatchSpanProcessor(OTLPSpanExporter(endpoint)))

    def export_by(self, processor: Any) -> None:
        """Give spans to a span processor."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        self.close()
        self._provider = TracerProvider(resource=Resource.create({"service.name": _SERVICE}))
        self._provider.add_span_processor(processor)
        self.tracer = self._provider.get_tracer(_SERVICE)

    def close(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            self._provider.shutdown()


class TraceMiddleware:
    """A span around each request."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app, self._tracing = app, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application inside of the span."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        path = redacted(scope["path"][:_SHOWN_PATH_CHARS])
        attributes = {
            "http.request.method": scope["method"],
            "url.path": path,
            "mulm.request_id": scope["state"]["request_id"],
        }
        with self._tracing.tracer.start_as_current_span(
            f"{scope['method']} {path}",
            context=extract(Headers(scope=scope)),
            kind=SpanKind.SERVER,
            attributes=attributes,
        ) as span:

            async def watch(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await self._app(scope, receive, watch)


class TracedClient:
    """An `EngineClient` with a span around each generation."""

    def __init__(self, client: EngineClient, tracing: Tracing) -> None:
        self._client, self._tracing = client, tracing
        self.is_ready, self.holds = client.is_ready, client.holds

    async def generate(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """As `EngineClient.generate`."""
        span = self._tracing.tracer.start_span("generate", attributes=_asked(model_id, request))
        n_tokens = 0
        reasons: list[str] = []
        try:
            async with aclosing(self._client.generate(model_id, request)) as chunks:
                async for chunk in chunks:
                    if not n_tokens:
                        span.add_event("first token")
                    n_tokens += len(chunk.token_ids)
                    reasons += [chunk.finish_reason] if chunk.finish_reason else []
                    yield chunk
        except MulmError as error:
            span.set_status(StatusCode.ERROR, error.code)
            raise
        finally:
            span.set_attribute("gen_ai.usage.output_tokens", n_tokens)
            span.set_attribute("gen_ai.response.finish_reasons", reasons)
            span.end()


def _asked(model_id: str, request: GenerateRequest) -> dict[str, str | int | float]:
    """What a request asks for."""
    sampling = request.sampling
    return {
        "gen_ai.operation.name": "embeddings" if request.is_embedding else "text_completion",
        "gen_ai.system": _SERVICE,
        "gen_ai.request.model": request.adapter or model_id,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.choice.count": request.n,
        "gen_ai.usage.input_tokens": len(request.prompt_ids),
        "mulm.request_id": request.request_id,
    }
