from __future__ import annotations

import socket

import pytest

from actors.cluster_info import ClusterInfo
from mulm.errors import (
    DeadlineError,
    JobFailedError,
    PortBusyError,
)
from mulm.home import Home
from serve_app import deploy as under_test
from serve_app.deploy import deploy_ingress
from serve_app.keys import make_key

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
