"""Checkpoints, samples, comparisons, forks and estimates over HTTP; and the machines."""

from __future__ import annotations

import json

import pytest

from serve_app.control_api import cluster

ROOT = "/api/v1/runs"


@pytest.fixture
def pair(ledger, home):
    """Two trainings with curves; the first has checkpoints and samples."""
    for number, loss in (("a", 2.0), ("b", 1.5)):
        config = {"name": f"m{number}", "dataset": "text@1", "preset": "demo", "seed": 1}
        ledger.create_run(f"run_{number}", "train", config | {"steps": 4 if number == "a" else 8})
        rows = [("metric", {"step": step, "loss": loss / step}) for step in (1, 2)]
        ledger.append_events(f"run_{number}", rows)
    texts = [("sample", {"step": s, "prompt": "p", "text": t}) for s, t in ((1, "x"), (2, "y"))]
    ledger.append_events("run_a", [*texts, ("checkpoint", {"step": 2, "is_best": True})])
    for step in (1, 2):
        (home.run("run_a") / "checkpoints" / f"step-{step}").mkdir(parents=True)
    return ["run_a", "run_b"]


def test_checkpoints_and_samples_are_told(api, pair):
    assert api.get(f"{ROOT}/run_a/checkpoints")["data"] == [
        {"step": 1, "is_best": False},
        {"step": 2, "is_best": True},
    ]
    assert [each["text"] for each in api.get(f"{ROOT}/run_a/samples")["data"]] == ["x", "y"]
    assert [each["text"] for each in api.get(f"{ROOT}/run_a/samples?last=1")["data"]] == ["y"]
    assert api.get(f"{ROOT}/run_b/checkpoints")["data"] == []
    for look in ("checkpoints", "samples", "compare?with=run_a"):
        api.refused("GET", f"{ROOT}/run_none/{look}", 404)


def test_trainings_stand_side_by_side_the_best_first(api, pair, ledger):
    found = api.get(f"{ROOT}/run_a/compare?with=run_b")
    assert [each["run"] for each in found["runs"]] == ["run_b", "run_a"]
    assert found["judged_by"] == "loss"
    assert found["differences"]["steps"] == [8, 4]
    assert found["steps"] == [
        {"step": 1, "loss": [1.5, 2.0]},
        {"step": 2, "loss": [0.75, 1.0]},
    ]
    ledger.create_run("run_e", "evaluate", {})
    api.refused("GET", f"{ROOT}/run_a/compare?with=run_e", 400)
    api.refused("GET", f"{ROOT}/run_a/compare", 400)


def test_a_fork_is_a_run_with_some_keys_otherwise(api, versions, jobs, ledger):
    config = {"name": "made", "dataset": "text@1", "preset": "demo", "steps": 4, "seed": 1}
    first = api.call("POST", ROOT, json={"kind": "train", "config": config}).json()
    forked = api.call("POST", f"{ROOT}/{first['id']}/fork", json={"config": {"seed": 2}})
    assert forked.status_code == 202, forked.text
    assert forked.json()["id"] != first["id"]
    written = json.loads(jobs.submitted[-1][2].read_bytes())
    assert (written["seed"], written["steps"]) == (2, 4)
    same = api.call("POST", f"{ROOT}/{first['id']}/fork", json={"config": {}}).json()
    assert same["id"] == first["id"], "nothing otherwise is the same run"
    api.refused("POST", f"{ROOT}/{first['id']}/fork", 400, json={"config": {"nonsense": 1}})
    api.refused("POST", f"{ROOT}/run_none/fork", 404, json={"config": {}})


def test_an_estimate_is_asked_before_anything_begins(api, jobs):
    told = api.call("POST", f"{ROOT}/estimate", json={"config": {"name": "x"}}).json()
    assert told == {"object": "estimate", "config": {"name": "x"}}
    assert jobs.submitted == []


def test_the_machines_are_told_and_those_that_are_gone(api):
    head, gone = api.get("/api/v1/cluster/nodes")["data"]
    assert (head["is_head"], head["gpu"], head["labels"]) == (True, "RTX", {"room": "attic"})
    assert (gone["is_alive"], gone["address"]) == (False, "10.0.0.2")
    whole = api.get("/api/v1/cluster")
    assert (whole["nodes"], whole["cpus"], whole["gpus"]) == (1, 4.0, 1.0)
    assert whole["max_upload_bytes"] == 512 << 20


def test_only_a_machine_that_has_joined_can_be_let_go(api, monkeypatch):
    asked = []
    monkeypatch.setattr(cluster, "let_go", asked.append)
    api.refused("POST", "/api/v1/cluster/nodes/10.0.0.9/leave", 404)
    api.refused("POST", "/api/v1/cluster/nodes/10.0.0.2/leave", 404)
    head = api.get("/api/v1/cluster/nodes")["data"][0]
    api.refused("POST", f"/api/v1/cluster/nodes/{head['id']}/leave", 409)
    assert asked == []
    monkeypatch.setattr(cluster, "node_to_let_go", lambda nodes, wanted: nodes[0])
    told = api.call("POST", "/api/v1/cluster/nodes/x/leave")
    assert (told.status_code, told.json()["is_leaving"]) == (202, True)
    assert [node["id"] for node in asked] == [head["id"]]
