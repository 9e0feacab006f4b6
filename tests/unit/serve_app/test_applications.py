from __future__ import annotations

import pickle
from traceback import format_exception

import pytest

from mulm.errors import ConfigError, DeviceError
from serve_app.applications import (
    body,
    deployed,
    engine_application,
    engine_config,
    ingress_config,
    is_engines,
    is_same,
    last_line,
    standing,
)
from serve_app.settings import IN_PLACE, AppArgs, IngressArgs

NAME = engine_application("m")
CONFIG = engine_config(NAME, AppArgs(model="m@1"))


def details(status="RUNNING", message="", deployment="HEALTHY", model="m@1"):
    user_config = AppArgs(model=model).model_dump(mode="json")
    one = {"status": deployment, "message": "", "deployment_config": {"user_config": user_config}}
    app = {"status": status, "message": message, "deployments": {"engine": one}}
    return {"applications": {NAME: app}}


def test_another_model_changes_only_what_is_taken_over_in_place():
    one, two = (engine_config(NAME, AppArgs(model=m)) for m in ("m@1", "m@2"))
    assert one["args"] == two["args"]
    assert one["deployments"] != two["deployments"]
    assert not IN_PLACE & set(one["args"])
    assert set(AppArgs.model_fields) == IN_PLACE | set(one["args"])


def test_running_means_our_config_on_healthy_deployments():
    def state(found):
        return standing(found, CONFIG).state

    assert state(details()) == "running"
    assert standing({}, CONFIG).words == "starting"
    assert state(details(model="m@2")) == "starting"
    assert state(details(deployment="UPDATING")) == "starting"
    for moving in ("UPSCALING", "DOWNSCALING"):
        assert state(details(deployment=moving)) == "running"
        assert state(details(deployment=moving, model="m@2")) == "starting"
    assert state(details(status="DEPLOYING")) == "starting"


def test_failure_carries_the_deployments_own_words():
    found = standing(details("DEPLOY_FAILED", "no such"), CONFIG)
    assert (found.state, found.words) == ("failed", "no such")


def test_the_last_line_of_a_traceback_names_the_error():
    words = "Traceback:\n  File x\nmulm.errors.NotFoundError: no model 'x@9'\n  at the end\n"
    assert last_line(words) == "not_found: no model 'x@9'"
    assert last_line("a\nb\n") == "b"
    for hint, told in (("set device to cpu", " (set device to cpu)"), ("", "")):
        error = pickle.loads(pickle.dumps(DeviceError("no GPU", hint=hint)))
        words = "".join(format_exception(error))
        assert last_line(words) == f"device_unavailable: no GPU{told}"
    assert last_line("") == "no reason given"


def test_running_streams_of_a_replica_that_ends_have_their_time():
    engines = engine_config(NAME, AppArgs(model="m@1", request_timeout_s=7.0))
    ingress = ingress_config(IngressArgs(drain_s=7.0))
    for config in (engines, ingress):
        assert config["deployments"][0]["graceful_shutdown_timeout_s"] == 7.0


def test_what_was_put_is_found_again_and_told_apart():
    assert is_engines(NAME)
    assert is_engines(engine_application("m", is_canary=True))
    assert not is_engines(ingress_config(IngressArgs())["name"])
    assert engine_application("m") != engine_application("m", is_canary=True)
    found = {"applications": {NAME: {"deployed_app_config": CONFIG | {"more": 1}, "status": "X"}}}
    assert is_same(deployed(found)[NAME], CONFIG)
    assert not is_same(deployed(found)[NAME], engine_config(NAME, AppArgs(model="m@2")))
    assert not is_same(None, CONFIG)
    found["applications"][NAME]["status"] = "DELETING"
    assert deployed(found) == {}


def test_http_comes_from_the_ingress_itself():
    assert body({NAME: CONFIG}) == {"proxy_location": "Disabled", "applications": [CONFIG]}
    assert CONFIG["route_prefix"] is None


def test_a_deployment_needs_a_model():
    with pytest.raises(ConfigError):
        engine_config(NAME, AppArgs())


@pytest.mark.parametrize("bad", [{"model": "not a ref!"}, {"min_replicas": 3}, {"n_slots": 0}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises((ConfigError, ValueError)):
        AppArgs(**({"model": "m@1"} | bad))
