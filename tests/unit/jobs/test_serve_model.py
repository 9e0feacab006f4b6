from __future__ import annotations

import socket

import httpx
import pytest

from actors.cluster_info import ClusterInfo
from jobs import serve_model as under_test
from jobs.remote import Remote
from jobs.serve_model import serve_model
from mulm.errors import DeadlineError, JobFailedError, MulmError, NotFoundError, UnreachableError
from mulm.home import Home
from serve_app.keys import make_key
from serve_app.settings import AppArgs

INFO = ClusterInfo(
    id="c", gcs_address="127.0.0.1:1", dashboard_url="http://127.0.0.1:2", http_host="127.0.0.1",
    http_port=3, pid=4, temp_dir="x",
)  # fmt: skip


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home").create()
    home.api_key.write_text(make_key(b"").text)
    return home


class Server:
    """Answers as the control API does."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, request):
        self.asked.append((request.method, request.url.path))
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return httpx.Response(status, json=body)


@pytest.fixture
def answering(monkeypatch):
    def use(*answers):
        server = Server(*answers)

        def connect(url, key, verify):
            made = Remote(url, key, verify, sleep=lambda _seconds: None)
            made._http = httpx.Client(base_url=url, transport=httpx.MockTransport(server))
            return made

        monkeypatch.setattr(under_test, "Remote", connect)
        monkeypatch.setattr(under_test, "_POLL_S", 0.001)
        return server

    return use


def told(status, message="", **more):
    return {"status": status, "message": message, "serves": {}} | more


def test_it_returns_when_an_engine_answers(home, answering):
    running = told("running", serves={"m": "m@1"})
    server = answering((202, told("starting")), (200, told("starting", "updating")), (200, running))
    said = []
    assert serve_model(INFO, AppArgs(model="m@1"), home=home, report=said.append) == {"m": "m@1"}
    assert said == ["starting", "updating"]
    assert server.asked[0] == ("PUT", "/api/v1/deployments/m")
    assert set(server.asked[1:]) == {("GET", "/api/v1/deployments/m")}


def test_a_deployment_that_fails_says_why(home, answering):
    answering((202, told("failed", "CorruptError: broken")))
    with pytest.raises(JobFailedError, match="CorruptError: broken"):
        serve_model(INFO, AppArgs(model="m@1"), home=home)


def test_a_deployment_that_does_not_come_is_not_waited_for_for_ever(home, answering):
    answering((202, told("starting", "no GPU is free")))
    with pytest.raises(DeadlineError, match="no GPU is free"):
        serve_model(INFO, AppArgs(model="m@1"), home=home, timeout_s=0.02)


def test_what_the_api_refuses_arrives_as_its_own_error(home, answering):
    answering((404, {"code": "not_found", "detail": "no model 'm@9'", "hint": "m@1"}))
    with pytest.raises(NotFoundError, match="no model 'm@9'") as refused:
        serve_model(INFO, AppArgs(model="m@9"), home=home)
    assert refused.value.hint == "m@1"
    answering((500, ["nonsense"]))
    with pytest.raises(MulmError, match="answered 500"):
        serve_model(INFO, AppArgs(model="m@9"), home=home)


def test_where_nobody_listens_that_is_said(home, monkeypatch):
    monkeypatch.setattr("jobs.remote._PAUSES_S", ())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    info = INFO.model_copy(update={"http_port": port})
    with pytest.raises(UnreachableError, match="no answer from"):
        serve_model(info, AppArgs(model="m@1"), home=home)


def test_a_key_that_is_gone_is_named_before_anything_is_deployed(home):
    home.api_key.unlink()
    with pytest.raises(NotFoundError, match="no API key"):
        serve_model(INFO, AppArgs(model="m@1"), home=home)
