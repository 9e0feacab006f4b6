from __future__ import annotations

import socket

import httpx
import pytest

from actors.cluster_info import ClusterInfo
from mulm.errors import (
    DeadlineError,
    JobFailedError,
    MulmError,
    NotFoundError,
    NotRunningError,
    PortBusyError,
)
from mulm.home import Home
from serve_app import deploy as under_test
from serve_app.control_client import ControlClient
from serve_app.deploy import deploy, deploy_ingress
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
    home.ray_token.write_text("token")
    return home


@pytest.fixture
def dashboard(serve, monkeypatch):
    monkeypatch.setattr(under_test, "Dashboard", lambda *_args: serve)
    monkeypatch.setattr(under_test, "_answers", lambda _info: True)
    monkeypatch.setattr(under_test, "_POLL_S", 0.001)
    return serve


def test_the_ingress_listens_where_the_cluster_says_beside_what_is_there(home, dashboard):
    dashboard.configs = {"strangers": {"name": "strangers"}}
    info = INFO.model_copy(update={"http_port": free_port()})
    deploy_ingress(info, home)
    args = dashboard.configs["mulm"]["args"]
    assert (args["http_host"], args["http_port"]) == ("127.0.0.1", info.http_port)
    deploy_ingress(info, home)
    assert dashboard.puts == [["mulm", "strangers"]], "the same again changes nothing"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_port_that_was_taken_since_up_is_named(home, dashboard):
    dashboard.configs = {}
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        info = INFO.model_copy(update={"http_port": stranger.getsockname()[1]})
        with pytest.raises(PortBusyError, match="is taken by"):
            deploy_ingress(info, home)
    assert dashboard.puts == []


def test_an_ingress_that_cannot_start_says_why(home, dashboard):
    dashboard.failing["mulm"] = "mulm.errors.NotRunningError: cannot listen on 127.0.0.1:3\n"
    with pytest.raises(JobFailedError, match="cannot listen"):
        deploy_ingress(INFO, home)
    dashboard.configs, dashboard.refuses = {}, "Ray answered 400"
    with pytest.raises(JobFailedError, match="was refused: Ray answered 400"):
        deploy_ingress(INFO.model_copy(update={"http_port": free_port()}), home)


def test_an_ingress_that_does_not_come_is_not_waited_for_for_ever(home, dashboard):
    dashboard.starting.add("mulm")
    with pytest.raises(DeadlineError):
        deploy_ingress(INFO, home, timeout_s=0.05)


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
        transport = httpx.MockTransport(server)
        monkeypatch.setattr(
            under_test,
            "ControlClient",
            lambda url, key, _verify: ControlClient(url, key, transport=transport),
        )
        monkeypatch.setattr(under_test, "_POLL_S", 0.001)
        return server

    return use


def told(status, message="", **more):
    return {"status": status, "message": message, "serves": {}} | more


def test_it_returns_when_an_engine_answers(home, answering):
    running = told("running", serves={"m": "m@1"})
    server = answering((202, told("starting")), (200, told("starting", "updating")), (200, running))
    said = []
    assert deploy(INFO, AppArgs(model="m@1"), home=home, report=said.append) == {"m": "m@1"}
    assert said == ["starting", "updating"]
    assert server.asked[0] == ("PUT", "/api/v1/deployments/m")
    assert set(server.asked[1:]) == {("GET", "/api/v1/deployments/m")}


def test_a_deployment_that_fails_says_why(home, answering):
    answering((202, told("failed", "CorruptError: broken")))
    with pytest.raises(JobFailedError, match="CorruptError: broken"):
        deploy(INFO, AppArgs(model="m@1"), home=home)


def test_a_deployment_that_does_not_come_is_not_waited_for_for_ever(home, answering):
    answering((202, told("starting", "no GPU is free")))
    with pytest.raises(DeadlineError, match="no GPU is free"):
        deploy(INFO, AppArgs(model="m@1"), home=home, timeout_s=0.02)


def test_what_the_api_refuses_arrives_as_its_own_error(home, answering):
    answering((404, {"code": "not_found", "detail": "no model 'm@9'", "hint": "m@1"}))
    with pytest.raises(NotFoundError, match="no model 'm@9'") as refused:
        deploy(INFO, AppArgs(model="m@9"), home=home)
    assert refused.value.hint == "m@1"
    answering((500, ["nonsense"]))
    with pytest.raises(MulmError, match="answered 500"):
        deploy(INFO, AppArgs(model="m@9"), home=home)


def test_where_nobody_listens_that_is_said(home):
    info = INFO.model_copy(update={"http_port": free_port()})
    with pytest.raises(NotRunningError, match="does not answer"):
        deploy(info, AppArgs(model="m@1"), home=home)


def test_a_key_that_is_gone_is_named_before_anything_is_deployed(home):
    home.api_key.unlink()
    with pytest.raises(NotFoundError, match="no API key"):
        deploy(INFO, AppArgs(model="m@1"), home=home)
