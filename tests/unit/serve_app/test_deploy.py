from __future__ import annotations

import socket

import httpx
import pytest

from actors.cluster_info import ClusterInfo
from mulm.errors import ConfigError, JobFailedError, NotFoundError, PortBusyError
from mulm.home import Home
from serve_app.deploy import (
    DEPLOYMENTS,
    deploy,
    deploy_config,
    is_deployed,
    last_line,
    names_models,
    state_of,
)
from serve_app.keys import make_key
from serve_app.settings import IN_PLACE, AppArgs

INFO = ClusterInfo(
    id="c", gcs_address="127.0.0.1:1", dashboard_url="http://127.0.0.1:2", http_host="127.0.0.1",
    http_port=3, pid=4, temp_dir="x",
)  # fmt: skip
CONFIG = deploy_config(AppArgs(model="m@1"))


def details(status="RUNNING", message="", deployment="HEALTHY", model="m@1"):
    user_config = AppArgs(model=model).model_dump(mode="json")
    one = {"status": deployment, "message": "", "deployment_config": {"user_config": user_config}}
    app = {"status": status, "message": message, "deployments": dict.fromkeys(DEPLOYMENTS, one)}
    return {"applications": {"mulm": app}}


def test_http_listens_where_the_cluster_says(home, monkeypatch):
    put = []

    class Dashboard(SilentDashboard):
        def request(self, method, _path, body=None, **_options):
            if method == "GET":
                return {"applications": {"mulm": {}}}
            put.append(body)
            raise JobFailedError("enough")

    monkeypatch.setattr("serve_app.deploy.Dashboard", Dashboard)
    with pytest.raises(JobFailedError, match="enough"):
        deploy(INFO, "token", AppArgs(model="m@1"), home=home)
    args = put[0]["applications"][0]["args"]
    assert (args["http_host"], args["http_port"]) == ("127.0.0.1", 3)
    assert put[0]["proxy_location"] == "Disabled"


def test_another_model_changes_only_what_is_taken_over_in_place():
    one, two = (deploy_config(AppArgs(model=m))["applications"][0] for m in ("m@1", "m@2"))
    assert one["args"] == two["args"]
    assert one["deployments"] != two["deployments"]
    assert not IN_PLACE & set(one["args"])
    assert set(AppArgs.model_fields) == IN_PLACE | set(one["args"])


def test_running_means_our_config_on_healthy_deployments():
    assert state_of(details(), CONFIG)[0] == "running"
    assert state_of({}, CONFIG) == ("deploying", "starting")
    assert state_of(details(model="m@2"), CONFIG)[0] == "deploying"
    assert state_of(details(deployment="UPDATING"), CONFIG)[0] == "deploying"
    for moving in ("UPSCALING", "DOWNSCALING"):
        assert state_of(details(deployment=moving), CONFIG)[0] == "running"
        assert state_of(details(deployment=moving, model="m@2"), CONFIG)[0] == "deploying"
    assert state_of(details(status="DEPLOYING"), CONFIG)[0] == "deploying"


def test_failure_carries_the_deployments_own_words():
    assert state_of(details("DEPLOY_FAILED", "no such"), CONFIG) == ("failed", "no such")


def test_the_last_line_of_a_traceback_names_the_error():
    words = "Traceback:\n  File x\nmulm.errors.NotFoundError: no model 'x@9'\n  at the end\n"
    assert last_line(words) == "NotFoundError: no model 'x@9'"
    assert last_line("a\nb\n") == "b"
    assert last_line("") == "no reason given"


def test_running_streams_of_a_replica_that_ends_have_their_time():
    config = deploy_config(AppArgs(model="m@1", request_timeout_s=7.0))
    for deployment in config["applications"][0]["deployments"]:
        assert deployment["graceful_shutdown_timeout_s"] == 7.0


@pytest.mark.parametrize(
    ("body", "is_ours"),
    [
        ('{"data": [{"id": "m", "root": "m@1"}]}', True),
        ('{"data": [{"id": "m", "root": "m@2"}]}', False),
        ('{"data": [{"id": "m", "root": "m@1"}, {"id": "n", "root": "n@1"}]}', False),
        ('{"data": [{"id": "m"}]}', False),
        ('{"data": []}', False),
        ('{"status": "ready"}', False),
        ("[]", False),
        ("<html>", False),
    ],
)
def test_a_strangers_answer_is_not_ours(body, is_ours):
    assert names_models(httpx.Response(200, text=body), {"m": "m@1"}) == is_ours


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home").create()
    home.api_key.write_text(make_key(b"").text)
    return home


class SilentDashboard:
    """Serve was never started; nothing may be put."""

    def __init__(self, *_args):
        pass

    def request(self, method, _path, _body=None, **_options):
        assert method == "GET"
        return {"applications": {}}


def test_a_port_that_was_taken_since_up_is_named(home, monkeypatch):
    monkeypatch.setattr("serve_app.deploy.Dashboard", SilentDashboard)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        info = INFO.model_copy(update={"http_port": stranger.getsockname()[1]})
        with pytest.raises(PortBusyError, match="is taken by"):
            deploy(info, "token", AppArgs(model="m@1"), home=home)
    assert is_deployed({"applications": {"mulm": {"status": "RUNNING"}}})


def test_a_key_that_is_gone_is_named_before_anything_is_deployed(home):
    home.api_key.unlink()
    with pytest.raises(NotFoundError, match="no API key"):
        deploy(INFO, "token", AppArgs(model="m@1"), home=home)


def test_a_deployment_needs_a_model():
    with pytest.raises(ConfigError):
        deploy_config(AppArgs())


@pytest.mark.parametrize("bad", [{"model": "not a ref!"}, {"min_replicas": 3}, {"n_slots": 0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises((ConfigError, ValueError)):
        AppArgs(**({"model": "m@1"} | bad))
