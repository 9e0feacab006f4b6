"""What Prometheus is told, under the names that vLLM's dashboards know, with our prefix.

`GET /metrics`, with a key. Latencies are measured in the ingress, around the engine's client, so
they hold what a client waits for; engines report their own numbers, and what waits for them at any
ingress, so each ingress tells the same of both. Invariant: names and labels are frozen in a test,
since people's dashboards ask for them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import aclosing

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from mulm.errors import DeadlineError, MulmError
from mulm.messages import GenerateRequest, TokenChunk
from serve_app.auth import ForbiddenError
from serve_app.caller import CallerDependency
from serve_app.engine_client import EngineClient
from serve_app.engine_report import EngineReport
from serve_app.service import ServiceDependency

router = APIRouter()

_log = logging.getLogger(__name__)

_PREFIX = "mulm:"
_LABELS = ("model_name",)
_NEAR_S = 0.01
"""Who reads answers gives them up by a clock of its own, begun a moment earlier."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_GAUGES: dict[str, tuple[str, Callable[[EngineReport], float]]] = {
    "num_requests_running": ("Sequences that are generated.", lambda r: r.stats.n_running),
    "num_requests_waiting": (
        "What waits for a slot, in engines and at all ingresses.",
        lambda r: r.n_waiting,
    ),
    "num_tokens_waiting": ("Tokens of prompts that wait there.", lambda r: r.waiting_tokens),
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
    """

    def __init__(self, reports: Reports) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engines(reports))
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From a request to its first token.", _SECONDS
        )
        self.token = self._histogram(
            "time_per_output_token_seconds", "Between the tokens of a request.", _TOKEN_SECONDS
        )
        self.whole = self._histogram(
            "e2e_request_latency_seconds", "From a request to its last token.", _SECONDS
        )
        self.failed = Counter(
            f"{_PREFIX}request_failure",
            "Requests that were not answered, by the error's code.",
            (*_LABELS, "code"),
            registry=self._registry,
        )
        self.ended = Counter(
            f"{_PREFIX}request_success",
            "Requests that were answered, by how they ended.",
            (*_LABELS, "finished_reason"),
            registry=self._registry,
        )

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
        name_of: The served name of the id of a model or an adapter.
        clock: Seconds.
    """

    def __init__(
        self,
        client: EngineClient,
        metrics: ServiceMetrics,
        name_of: Callable[[str], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._metrics, self._clock = client, metrics, clock
        self._name_of = name_of
        self.is_ready, self.holds = client.is_ready, client.holds

    async def generate(
        self, model_id: str, request: GenerateRequest
    ) -> AsyncGenerator[TokenChunk, None]:
        """As `EngineClient.generate`; a line in the log says what became of it."""
        name = self._name_of(request.adapter or model_id)
        watch = _Watch(self._metrics, name, request, self._clock)
        try:
            async with aclosing(self._client.generate(model_id, request)) as chunks:
                async for chunk in chunks:
                    watch.see(chunk)
                    yield chunk
        except MulmError as error:
            watch.fail(error.code)
            raise
        except (GeneratorExit, asyncio.CancelledError):
            watch.leave()
            raise
        finally:
            watch.log()


class _Watch:
    """One request on its way."""

    def __init__(
        self,
        metrics: ServiceMetrics,
        name: str,
        request: GenerateRequest,
        clock: Callable[[], float],
    ) -> None:
        self._metrics, self._name, self._request, self._clock = metrics, name, request, clock
        self._begun_s = clock()
        self._first_s: float | None = None
        self._n_open, self._n_tokens, self._n_cached = request.n, 0, 0
        self._end = "left"

    def see(self, chunk: TokenChunk) -> None:
        """Count a chunk. The reader of the last one does not ask for more, so all ends here."""
        if self._first_s is None:
            self._first_s = self._clock()
            self._metrics.first_token.labels(self._name).observe(self._first_s - self._begun_s)
        self._n_tokens += len(chunk.token_ids)
        self._n_cached += chunk.n_cached_tokens
        if chunk.finish_reason == "deadline":
            self.fail(DeadlineError.code)
        elif chunk.finish_reason:
            self._n_open -= 1
            self._end = chunk.finish_reason
            self._metrics.ended.labels(self._name, chunk.finish_reason).inc()
            if not self._n_open:
                self._observe_end(self._first_s, self._clock())

    def fail(self, code: str) -> None:
        """It has no answer."""
        self._end = code
        self._metrics.failed.labels(self._name, code).inc()

    def leave(self) -> None:
        """Nobody reads more of it: its time is up, or somebody has enough of it."""
        if not self._n_open or self._end == DeadlineError.code:
            return
        if self._clock() - self._begun_s >= self._request.deadline_s - _NEAR_S:
            self.fail(DeadlineError.code)
        else:
            self._metrics.ended.labels(self._name, "abort").inc(self._n_open)

    def log(self) -> None:
        """One line, at its end."""
        first_s = None if self._first_s is None else self._first_s - self._begun_s
        _log.info(
            "generation ended request=%s model=%s end=%s prompt_tokens=%d cached_tokens=%d"
            " new_tokens=%d first_token_s=%s",
            self._request.request_id,
            self._name,
            "left" if self._n_open and self._end in ("stop", "length") else self._end,
            len(self._request.prompt_ids),
            self._n_cached,
            self._n_tokens,
            "none" if first_s is None else f"{first_s:.3f}",
        )

    def _observe_end(self, first_s: float, end_s: float) -> None:
        self._metrics.whole.labels(self._name).observe(end_s - self._begun_s)
        n_tokens = self._n_tokens / self._request.n
        if n_tokens > 1:
            self._metrics.token.labels(self._name).observe((end_s - first_s) / (n_tokens - 1))


class _Engines:
    """A collector of what engines report, summed over those of one model.

    A counter keeps what engines had counted that are gone, so that it never falls.
    """

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._last: dict[str, EngineReport] = {}
        self._gone: defaultdict[str, defaultdict[str, float]] = defaultdict(
            lambda: defaultdict(float)
        )

    def collect(self) -> Iterator[Metric]:
        """Prometheus's hook."""
        by_name: defaultdict[str, list[EngineReport]] = defaultdict(list)
        for report in self._reports():
            by_name[report.deployment].append(report)
        self._note({report.engine_id: report for each in by_name.values() for report in each})
        for name, (what, read) in _GAUGES.items():
            gauge = GaugeMetricFamily(_PREFIX + name, what, labels=_LABELS)
            for model, reports in by_name.items():
                total = sum(map(read, reports))
                gauge.add_metric([model], total / len(reports) if name.endswith("perc") else total)
            yield gauge
        for name, (what, read) in _COUNTERS.items():
            counter = CounterMetricFamily(_PREFIX + name, what, labels=_LABELS)
            for model in by_name.keys() | self._gone.keys():
                living = sum(map(read, by_name.get(model, ())))
                counter.add_metric([model], living + self._gone[model][name])
            yield counter

    def _note(self, living: dict[str, EngineReport]) -> None:
        """Keep the last that was heard of engines that are gone."""
        for engine_id in self._last.keys() - living.keys():
            report = self._last[engine_id]
            gone = self._gone[report.deployment]
            for name, (_, read) in _COUNTERS.items():
                gone[name] += read(report)
        self._last = living


class MetricsResponse(Response):
    """The text that Prometheus reads."""

    media_type = CONTENT_TYPE_PLAIN_0_0_4


@router.get("/metrics", response_class=MetricsResponse)
async def metrics(service: ServiceDependency, caller: CallerDependency) -> Response:
    """The service's numbers, which tell of all models: keys of some models are refused."""
    if caller.key.models:
        raise ForbiddenError(
            "this key is for some models, and these numbers are of all",
            hint="ask with a key that is not limited to models",
        )
    return MetricsResponse(service.metrics_text())
