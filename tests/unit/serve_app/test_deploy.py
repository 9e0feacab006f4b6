from __future__ import annotations

import pytest

from actors.cluster_info import ClusterInfo
from mulm.errors import ConfigError
from serve_app.deploy import DEPLOYMENTS, deploy_config, last_line, state_of
from serve_app.settings import IN_PLACE, AppArgs

INFO = ClusterInfo(
    id="c", gcs_address="127.0.0.1:1", dashboard_url="http://127.0.0.1:2", http_host="127.0.0.1",
    http_port=3, pid=4, temp_dir="x",
)  # fmt: skip
CONFIG = deploy_config(INFO, AppArgs(model="m@1"))


def details(status="RUNNING", message="", deployment="HEALTHY", model="m@1"):
    user_config = AppArgs(model=model).model_dump(mode="json")
    one = {"status": deployment, "message": "", "deployment_config": {"user_config": user_config}}
    app = {"status": status, "message": message, "deployments": dict.fromkeys(DEPLOYMENTS, one)}
    return {"applications": {"mulm": app}}


def test_http_listens_where_the_cluster_says():
    assert CONFIG["http_options"] == {"host": "127.0.0.1", "port": 3}
    assert CONFIG["proxy_location"] == "HeadOnly"


def test_another_model_changes_only_what_is_taken_over_in_place():
    one, two = (deploy_config(INFO, AppArgs(model=m))["applications"][0] for m in ("m@1", "m@2"))
    assert one["args"] == two["args"]
    assert one["deployments"] != two["deployments"]
    assert not IN_PLACE & set(one["args"])
    assert set(AppArgs.model_fields) == IN_PLACE | set(one["args"])


def test_running_means_our_config_on_healthy_deployments():
    assert state_of(details(), CONFIG)[0] == "running"
    assert state_of({}, CONFIG) == ("deploying", "starting")
    assert state_of(details(model="m@2"), CONFIG)[0] == "deploying"
    assert state_of(details(deployment="UPDATING"), CONFIG)[0] == "deploying"
    assert state_of(details(status="DEPLOYING"), CONFIG)[0] == "deploying"


def test_failure_carries_the_deployments_own_words():
    assert state_of(details("DEPLOY_FAILED", "no such"), CONFIG) == ("failed", "no such")


def test_the_last_line_of_a_traceback_names_the_error():
    words = "Traceback:\n  File x\nmulm.errors.NotFoundError: no model 'x@9'\n  at the end\n"
    assert last_line(words) == "NotFoundError: no model 'x@9'"
    assert last_line("a\nb\n") == "b"
    assert last_line("") == "no reason given"


def test_a_deployment_needs_a_model():
    with pytest.raises(ConfigError):
        deploy_config(INFO, AppArgs())


@pytest.mark.parametrize("bad", [{"model": "not a ref!"}, {"min_replicas": 3}, {"n_slots": 0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises((ConfigError, ValueError)):
        AppArgs(**({"model": "m@1"} | bad))
