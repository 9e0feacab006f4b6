"""`mulm ps`: what a server serves, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest

from jobs.ps import listing_lines

DEPLOYMENT = {
    "id": "poems",
    "model": "poems@3",
    "status": "ready",
    "message": "",
    "traffic": [{"model": "poems@3", "weight": 90.0}, {"model": "poems@4", "weight": 10.0}],
    "replicas": [
        {
            "id": "engine#a", "state": "RUNNING", "node": "10.0.0.5", "device": "cuda:0",
            "dtype": "bfloat16", "memory_bytes": 2_400_000_000, "running": 3, "waiting": 1,
            "kv_use": 0.25, "tokens_per_s": 1234.5,
        },
        {"id": "engine#b", "state": "STARTING", "tokens_per_s": None, "kv_use": None},
    ],
}  # fmt: skip


class Api(BaseHTTPRequestHandler):
    """A server with the deployments that a test gives it; None for one that knows none."""

    data: ClassVar[list[Any] | None] = []

    def log_message(self, *args: object) -> None:
        return

    def do_GET(self) -> None:
        is_there = self.headers["Authorization"] == "Bearer k"
        if self.path == "/v1/models":
            status, body = 200, {"data": [{"id": "demo", "root": "demo@1"}]}
        elif not is_there:
            status, body = 401, {"code": "unauthorized", "detail": "no"}
        elif self.path.startswith("/api/v1/deployments") and self.data is not None:
            status, body = 200, {"data": self.data, "has_more": False}
        else:
            status, body = 404, {"code": "not_found", "detail": "no such route"}
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def at_api(mulm: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = Thread(target=http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("MULM_URL", f"http://127.0.0.1:{http.server_address[1]}")
    monkeypatch.setenv("MULM_API_KEY", "k")
    yield mulm
    http.shutdown()
    http.server_close()
    thread.join()


def test_a_line_for_each_deployment_and_each_engine() -> None:
    head, total, first, second = listing_lines([DEPLOYMENT])
    assert head.split() == [
        "name", "model", "state", "engine", "device", "dtype", "memory", "tokens/s", "running",
        "waiting", "kv",
    ]  # fmt: skip
    assert "poems@3 90 %, poems@4 10 %" in total
    assert total.split()[-3:] == ["1,234", "3", "1"]
    assert first.split() == [
        "RUNNING", "engine#a", "10.0.0.5", "cuda:0", "bfloat16", "2.4", "GB", "1,234", "3", "1",
        "25%",
    ]  # fmt: skip
    assert second.split() == ["STARTING", "engine#b"]


def test_what_is_not_told_has_no_column() -> None:
    head, line = listing_lines([{"id": "demo", "model": "demo@1"}])
    assert head.split() == ["name", "model"]
    assert line.split() == ["demo", "demo@1"]
    assert listing_lines([]) == []
    assert "\x1b" not in listing_lines([{"id": "a\x1b[31m", "model": "b"}])[1]


def test_the_command(at_api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Api, "data", [DEPLOYMENT])
    assert at_api.json("ps") == [DEPLOYMENT]
    code, out, _ = at_api("ps")
    assert code == 0
    assert "engine#a" in out
    monkeypatch.setattr(Api, "data", [])
    assert "nothing is served" in at_api("ps")[2]
    assert at_api("ps", "-q") == (0, "", "")
    assert at_api("ps", "--key", "wrong")[0] == 14


def test_a_server_from_before_deployments_tells_names(
    at_api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Api, "data", None)
    assert at_api.json("ps") == [{"id": "demo", "model": "demo@1"}]


def test_on_this_machine_the_application_must_be_up(mulm: Any) -> None:
    assert mulm("ps")[0] == 10


def test_models_there_are_talked_to(at_api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chat asks the server that was named, with its key, `/v1` or not behind the address."""
    code, _, err = at_api("chat", "hello", "--model", "nobody")
    assert code == 3
    assert "'nobody' is served" in err
    code, _, err = at_api("generate", "hello", "--model", "nobody")
    assert code == 3
    monkeypatch.delenv("MULM_API_KEY")
    assert at_api("chat", "hello")[0] == 14
