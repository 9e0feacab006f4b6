"""What is wrong in a config of a body is named as it stands there, with a way out over HTTP."""

from __future__ import annotations

import json

import pytest

V1 = "/api/v1"
TRAIN = {"name": "made", "dataset": "text", "steps": 5}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/runs", {"kind": "train", "config": TRAIN | {"steps": -1}}, "config.steps"),
        ("/runs", {"kind": "train", "config": TRAIN | {"stepps": 1}}, "config.stepps"),
        ("/runs", {"kind": "train", "config": {}}, "config.name"),
        ("/datasets", {}, "name"),
        (
            "/datasets",
            {"name": "a", "sources": [{"path": "bundled://sample", "sha256": "x"}]},
            "sources.0.sha256",
        ),
    ],
)
def test_the_key_is_named_as_it_stands_in_the_body(api, versions, path, body, param):
    told = api.refused("POST", f"{V1}{path}", 400, json=body)
    assert told["param"] == param
    assert "--set" not in (told["hint"] or "")


def test_a_changed_setting_is_named(api, versions):
    assert api.call("POST", f"{V1}/deployments", json={"model": "tiny@1"}).status_code == 202
    told = api.refused("PATCH", f"{V1}/deployments/tiny", 400, json={"max_replicas": "many"})
    assert told["param"] == "max_replicas"
    assert api.refused("PATCH", f"{V1}/deployments/tiny", 400, json={"x": 1})["param"] == "x"


def test_who_resumes_over_http_is_told_what_to_send(api, ledger, jobs, versions):
    run_id = api.call("POST", f"{V1}/runs", json={"kind": "train", "config": TRAIN}).json()["id"]
    ledger.create_run(run_id, "train", json.loads(jobs.submitted[0][2].read_bytes()))
    ledger.set_phase(run_id, "cancelled")
    jobs.stop_job(run_id)
    path = f"{V1}/runs/{run_id}"
    assert '{"also_cancelled": true}' in api.refused("POST", f"{path}/resume", 409)["hint"]
    assert '{"also_cancelled": true}' in api.refused("POST", f"{path}/pause", 409)["hint"]
    body = {"set": ["workers"], "also_cancelled": True}
    assert '"workers=1"' in api.refused("POST", f"{path}/resume", 400, json=body)["hint"]
