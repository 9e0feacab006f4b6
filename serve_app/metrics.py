"""What Prometheus is told, under the names that vLLM's dashboards know, with our prefix.

`GET /metrics`, with a key. Latencies are measured in the ingress, around the engine's client, so
they hold what a client waits for; engines report their own numbers. Invariant: names and labels are
frozen in a test, since people's dashboards ask for them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import aclosing

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from mulm.messages import GenerateRequest, TokenChunk
from serve_app.engine_client import EngineClient
from serve_app.engine_report import EngineReport
from serve_app.service import ServiceDependency

router = APIRouter()

_PREFIX = "mulm:"
_LABELS = ("model_name",)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_GAUGES: dict[str, tuple[str, Callable[[EngineReport], float]]] = {
    "num_requests_running": ("Sequences that are generated.", lambda r: r.stats.n_running),
    "num_requests_waiting": ("Sequences that wait for a slot.", lambda r: r.stats.n_waiting),
    "num_tokens_waiting": ("Tokens of prompts that wait.", lambda r: r.stats.waiting_tokens),
    "kv_cache_usage_perc": ("Share of pages in use, mean of engines.", lambda r: r.kv_use),
}
_COUNTERS: dict[str, tuple[str, Callable[[EngineReport], float]]] = {
    "num_preemptions": ("Sequences that lost their pages.", lambda r: r.stats.n_preemptions),
    "prefix_cache_queries": ("Tokens looked up in kept pages.", lambda r: r.stats.prefix_tokens),
    "prefix_cache_hits": ("Tokens found there.", lambda r: r.stats.prefix_hits),
    "prompt_tokens": ("Tokens of prompts.", lambda r: r.stats.prompt_tokens),
    "generation_tokens": ("Tokens generated.", lambda r: r.stats.generated_tokens),
    "spec_decode_num_draft_tokens": ("Tokens guessed.", lambda r: r.stats.proposed_tokens),
    "spec_decode_num_accepted_tokens": (
        "Guesses that were right.",
        lambda r: r.stats.accepted_tokens,
    ),
}

Reports = Callable[[], Collection[EngineReport]]


class ServiceMetrics:
    """The numbers of one ingress.

    Args:
        reports: The newest report of each engine.
        name_of: The served name of a model's id.
    """

    def __init__(self, reports: Reports, name_of: Callable[[str], str]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engines(reports, name_of))
        self.name_of = name_of
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From a request to its first token.", _SECONDS
        )
        self.token = self._histogram(
            "time_per_output_token_seconds", "Between the tokens of a request.", _TOKEN_SECONDS
        )
        self.whole = self._histogram(
            "e2e_request_latency_seconds", "From a request to its last token.", _SECONDS
        )
        self.ended = Counter(
            f"{_PREFIX}request_success",
            "Requests that were answered, by how they ended.",
            (*_LABELS, "finished_reason"),
            registry=self._registry,
        )

    def observe_end(
        self, name: str, begun_s: float, first_s: float, end_s: float, n_tokens: float
    ) -> None:
        """How long a request took, and each of its tokens; `n_tokens` of a choice."""
        self.whole.labels(name).observe(end_s - begun_s)
        if n_tokens > 1:
            self.token.labels(name).observe((end_s - first_s) / (n_tokens - 1))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        written: bytes = generate_latest(self._registry)
        return written

    def _histogram(self, name: str, what: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"{_PREFIX}{name}", what, _LABELS, buckets=bounds, registry=self._registry)


class MeasuredClient:
    """An `EngineClient` that tells how long it took.

    Args:
        client: Does the work.
        metrics: Are told.
        clock: Seconds.
    """

    def __init__(
        self,
        client: EngineClient,
        metrics: ServiceMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._metrics, self._clock = client, metrics, clock
        self.is_ready, self.holds = client.is_ready, client.holds

    async def generate(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """As `EngineClient.generate`."""
        name = self._metrics.name_of(model_id)
        begun_s = self._clock()
        first_s: float | None = None
        n_tokens = 0
        n_open = request.n
        async with aclosing(self._client.generate(model_id, request)) as chunks:
            async for chunk in chunks:
                if first_s is None:
                    first_s = self._clock()
                    self._metrics.first_token.labels(name).observe(first_s - begun_s)
                n_tokens += len(chunk.token_ids)
                if chunk.finish_reason:
                    n_open -= 1
                    self._metrics.ended.labels(name, chunk.finish_reason).inc()
                if not n_open:  # a reader of the last chunk does not ask for the end
                    end_s = self._clock()
                    self._metrics.observe_end(name, begun_s, first_s, end_s, n_tokens / request.n)
                yield chunk


class _Engines:
    """A collector of what engines report, summed over those of one model."""

    def __init__(self, reports: Reports, name_of: Callable[[str], str]) -> None:
        self._reports, self._name_of = reports, name_of

    def collect(self) -> Iterator[Metric]:
        """Prometheus's hook."""
        by_name: defaultdict[str, list[EngineReport]] = defaultdict(list)
        for report in self._reports():
            by_name[self._name_of(report.model_id)].append(report)
        for name, (what, read) in _GAUGES.items():
            gauge = GaugeMetricFamily(_PREFIX + name, what, labels=_LABELS)
            for model, reports in by_name.items():
                total = sum(map(read, reports))
                gauge.add_metric([model], total / len(reports) if name.endswith("perc") else total)
            yield gauge
        for name, (what, read) in _COUNTERS.items():
            counter = CounterMetricFamily(_PREFIX + name, what, labels=_LABELS)
            for model, reports in by_name.items():
                counter.add_metric([model], sum(map(read, reports)))
            yield counter


@router.get("/metrics")
async def metrics(service: ServiceDependency) -> Response:
    """The service's numbers."""
    return Response(service.metrics_text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
