"""What is offered for Prometheus and Grafana asks for numbers that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.train_gauges import GAUGES
from serve_app.engine_report import EngineReport
from serve_app.metrics import ServiceMetrics
from tests.unit.serve_app.test_metrics import REPORT

FOLDER = Path(__file__).parents[2] / "docs/monitoring"
_NAME = re.compile(r"\b(?:mulm:|ray_mulm_)[a-z0-9_]+")
_VARIABLE = re.compile(r"\$(\w+)")
_OF_GRAFANA = {"__rate_interval": "1m"}


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


def test_the_dashboard_is_of_the_kind_that_grafana_imports():
    found = dashboard()
    assert found["schemaVersion"] == 39
    assert found["uid"]
    assert not found.get("id")  # of another installation's database
    for panel in found["panels"]:
        assert panel["type"] in ("row", "timeseries")
        assert panel["title"]
        if panel["type"] == "row":
            assert (panel["gridPos"]["w"], panel["panels"]) == (24, [])
        else:
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_everything_is_asked_of_the_prometheus_that_was_chosen():
    found = dashboard()
    source, *others = found["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == (
        "source", "datasource", "prometheus",
    )  # fmt: skip
    panels = [panel for panel in found["panels"] if panel["type"] != "row"]
    targets = [target for panel in panels for target in panel["targets"]]
    for asking in (*others, *panels, *targets):
        assert asking["datasource"] == {"type": "prometheus", "uid": "${source}"}


def test_every_variable_in_an_expression_is_there():
    there = {variable["name"] for variable in dashboard()["templating"]["list"]} | {*_OF_GRAFANA}
    assert {name for text in expressions() for name in _VARIABLE.findall(text)} <= there


@pytest.fixture
def promtool() -> str:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("no promtool on the path: apt-get install --no-install-recommends prometheus")
    return path


def checked(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_file(promtool: str, tmp_path: Path):
    (tmp_path / ".mulm").mkdir()
    (tmp_path / ".mulm/metrics_key").write_text("mulm_sk_key")
    text = (FOLDER / "prometheus.yml").read_text(encoding="utf-8")
    (tmp_path / "prometheus.yml").write_text(text.replace("~/", f"{tmp_path}/"))
    checked(promtool, "check", "config", str(tmp_path / "prometheus.yml"))


def test_prometheus_understands_every_expression(promtool: str, tmp_path: Path):
    asked = [
        target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())
    ]
    plain = [_VARIABLE.sub(lambda found: _OF_GRAFANA.get(found[1], ".*"), text) for text in asked]
    rules = [{"record": f"panel:{at}", "expr": text} for at, text in enumerate(plain)]
    (tmp_path / "rules.yml").write_text(yaml.dump({"groups": [{"name": "all", "rules": rules}]}))
    checked(promtool, "check", "rules", str(tmp_path / "rules.yml"))


def test_prometheus_asks_where_the_numbers_are_and_with_a_key():
    service, cluster = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    assert service["metrics_path"] == "/metrics"
    assert service["authorization"]["type"] == "Bearer"
    assert service["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]
    assert cluster["file_sd_configs"][0]["files"][0].endswith(
        "/ray/prom_metrics_service_discovery.json"
    )
