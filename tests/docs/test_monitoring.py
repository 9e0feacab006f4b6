"""What is offered for Prometheus and Grafana asks for numbers that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from actors.train_gauges import GAUGES
from serve_app.engine_report import EngineReport
from serve_app.metrics import ServiceMetrics
from tests.unit.serve_app.test_metrics import REPORT

FOLDER = Path(__file__).parents[2] / "docs/monitoring"
_NAME = re.compile(r"\b(?:mulm:|ray_mulm_)[a-z0-9_]+")


def dashboard() -> Any:
    return json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))


def expressions() -> Iterator[str]:
    found = dashboard()
    for variable in found["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]
    for panel in found["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def there_are() -> set[str]:
    """The names that Prometheus stores, of the service and of training runs."""
    reports: list[EngineReport] = [REPORT]
    metrics = ServiceMetrics(lambda: reports)
    for histogram in (metrics.first_token, metrics.token, metrics.whole):
        histogram.labels("tiny").observe(1.0)
    metrics.ended.labels("tiny", "stop").inc()
    metrics.failed.labels("tiny", "overloaded").inc()
    served = re.findall(r"^([^#\s{]+)", metrics.text().decode(), re.M)
    return {*served, *(f"ray_{name}" for name, _ in GAUGES.values())}


def test_every_name_in_the_dashboard_is_one_that_there_is():
    asked = {name for text in expressions() for name in _NAME.findall(text)}
    assert asked
    assert asked <= there_are()


def test_every_number_that_there_is_is_in_the_dashboard():
    told = {name for text in expressions() for name in _NAME.findall(text)}
    parts = re.compile(r"_(?:bucket|count|sum|created|total)$")
    assert {parts.sub("", name) for name in there_are()} <= {parts.sub("", name) for name in told}


def test_panels_stand_beside_each_other_and_have_their_own_numbers():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) == 23


def test_prometheus_asks_where_the_numbers_are_and_with_a_key():
    service, cluster = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    assert service["metrics_path"] == "/metrics"
    assert service["authorization"]["type"] == "Bearer"
    assert service["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]
    assert cluster["file_sd_configs"][0]["files"][0].endswith(
        "/ray/prom_metrics_service_discovery.json"
    )
