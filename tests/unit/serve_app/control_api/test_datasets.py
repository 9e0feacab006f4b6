"""Datasets over HTTP, from files that were uploaded."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest

from jobs.entry import JobContext, execute
from jobs.prepare import in_this_process, prepare
from jobs.train_tokenizer import learn
from mulm.data.recipe import Recipe
from mulm.data.sources.listing import identities, list_files
from mulm.data.sources.remote_names import key_of
from mulm.data.tokenizer_config import TokenizerConfig
from mulm.gc import plan_gc
from mulm.runs.identity import IDENTITIES, run_id_of
from tests.unit.serve_app.control_api.conftest import WEAK_KEY
from tests.unit.serve_app.control_api.test_files import stored, upload

ROOT = "/api/v1/datasets"


def texts(seed: int = 0) -> bytes:
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshr", k=rng.randint(2, 7))) for _ in range(200)]
    lines = (json.dumps({"text": " ".join(rng.choices(words, k=60))}) for _ in range(80))
    return "\n".join(lines).encode()


@pytest.fixture
def file_id(api) -> str:
    return str(upload(api, texts(), "texts.jsonl").json()["id"])


@pytest.fixture
def recipe(file_id) -> dict[str, Any]:
    source = {"file": file_id, "licence": "CC0-1.0"}
    return {"name": "made", "sources": [source], "tokenizer": {"vocab_size": 400}}


def build(api, recipe, status: int = 202) -> dict[str, Any]:
    reply = api.call("POST", ROOT, json=recipe)
    assert reply.status_code == status, reply.text
    run: dict[str, Any] = reply.json()
    assert reply.headers["location"] == f"/api/v1/runs/{run['id']}"
    return run


@pytest.fixture
def work(home, ledger, store, jobs):
    """Do what the newest job was submitted for."""

    def run() -> dict[str, Any]:
        module, run_id, path = jobs.submitted[-1]
        assert module == "jobs.prepare"
        context = JobContext(run_id, home, store, ledger)
        config = Recipe.model_validate(json.loads(path.read_bytes()))
        result = execute("prepare", config, lambda c, r: prepare(c, r, in_this_process()), context)
        jobs.stop(run_id)
        return result

    return run


def test_a_tokenizer_is_learned_of_a_dataset_alone(api, recipe, work, ledger, home, store, jobs):
    build(api, recipe)
    built = work()
    order = {"name": "alone", "dataset": "made", "vocab_size": 400}
    reply = api.call("POST", "/api/v1/tokenizers", json=order)
    assert reply.status_code == 202, reply.text
    module, run_id, path = jobs.submitted[-1]
    assert (module, reply.headers["location"]) == (
        "jobs.train_tokenizer", f"/api/v1/runs/{run_id}",
    )  # fmt: skip
    config = TokenizerConfig.model_validate(json.loads(path.read_bytes()))
    assert config.dataset == "made@1", "what it means is fixed when it begins"
    context = JobContext(run_id, home, store, ledger)
    assert (
        execute("train_tokenizer", config, learn, context)["tokenizer_id"] == built["tokenizer_id"]
    )
    jobs.stop(run_id)
    again = api.call("POST", "/api/v1/tokenizers", json=order)
    assert (again.status_code, again.json()["result"]["tokenizer"]) == (200, "alone@1")
    small = {"name": "alone", "dataset": "made", "vocab_size": 3}
    told = api.refused("POST", "/api/v1/tokenizers", 400, json=small)
    assert told["detail"] == "vocab_size: must be at least 288 (given: 3)"
    bad = {"name": "alone", "dataset": "made", "vocab_siz": 400}
    told = api.refused("POST", "/api/v1/tokenizers", 400, json=bad)
    assert told["hint"] == "did you mean 'vocab_size'?"
    api.refused("POST", "/api/v1/tokenizers", 404, json=order | {"dataset": "nothing"})


def test_from_an_upload_to_a_version(api, recipe, work, ledger):
    run = build(api, recipe)
    assert (run["kind"], run["phase"], run["name"]) == ("prepare", "queued", "made")
    assert work()["dataset"] == "made@1"
    assert build(api, recipe, 200)["result"]["dataset"] == "made@1"
    version = api.get(f"{ROOT}/made@1")
    assert version["licences"] == ["CC0-1.0"]
    documents = ledger.run(run["id"]).result["documents_id"]
    assert version["parents"]["documents"]["id"] == documents
    assert api.get("/api/v1/runs?kind=prepare")["data"][0]["phase"] == "succeeded"


def test_both_routes_and_the_same_bytes_are_one_run(api, recipe, jobs):
    first = build(api, recipe)
    again = upload(api, texts(), "texts.jsonl").json()["id"]
    same = recipe | {"sources": [recipe["sources"][0] | {"file": again}]}
    assert build(api, same)["id"] == first["id"]
    reply = api.call("POST", "/api/v1/runs", json={"kind": "prepare", "config": recipe})
    assert (reply.status_code, reply.json()["id"]) == (202, first["id"])
    for content, name in ((texts(1), "texts.jsonl"), (texts(), "other.jsonl")):
        other = upload(api, content, name).json()["id"]
        changed = recipe | {"sources": [recipe["sources"][0] | {"file": other}]}
        assert build(api, changed)["id"] != first["id"]


def test_the_config_of_a_run_is_the_same_run(api, recipe, ledger, store):
    run = build(api, recipe)
    config = api.get(f"/api/v1/runs/{run['id']}")["config"]
    assert "file" not in config["sources"][0]
    assert config["sources"][0]["content"]["name"] == "texts.jsonl"
    assert build(api, config)["id"] == run["id"]
    values = Recipe.model_validate(config)
    identity = IDENTITIES["prepare"](values, ledger, store)
    assert run_id_of("prepare", values, identity) == run["id"]


def test_a_recipe_of_paths_has_the_identity_that_it_had():
    dumped = Recipe.model_validate({"name": "a", "sources": [{"path": "x"}]}).model_dump()
    assert set(dumped["sources"][0]) == {
        "type", "path", "licence", "name", "weight", "columns", "sha256", "sections",
    }  # fmt: skip


def test_what_is_bundled_is_built_by_its_name(api, recipe, work):
    told = api.refused("POST", ROOT, 404, json=recipe | {"sources": [{"path": "bundled://../etc"}]})
    assert told["hint"] == "known: books"
    build(api, recipe | {"sources": [{"path": "bundled://books", "licence": "public domain"}]})
    assert work()["documents"] > 100


def test_from_a_named_place_data_is_fetched_by_the_run_and_not_before(
    api, recipe, jobs, ledger, store, monkeypatch
):
    def fetch(*_: object) -> None:
        raise AssertionError("the request waits for nobody elsewhere")

    monkeypatch.setattr("mulm.data.sources.listing.fetch", fetch)
    digest = hashlib.sha256(texts()).hexdigest()
    source = {"path": "https://data.example/corpora/texts.jsonl", "sha256": digest}
    run = build(api, recipe | {"sources": [source]})
    path = store.downloads / key_of(source["path"], digest) / "texts.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(texts())
    monkeypatch.undo()
    config = Recipe.model_validate(json.loads(jobs.submitted[-1][2].read_bytes()))
    there = list_files(config, store).identities
    assert identities(config, store) == there, "what is promised is what comes"
    assert run_id_of("prepare", config, IDENTITIES["prepare"](config, ledger, store)) == run["id"]


def test_a_run_goes_on_with_its_bytes_when_the_file_is_forgotten(
    api, recipe, file_id, work, ledger, store
):
    run = build(api, recipe)
    api.call("DELETE", f"/v1/files/{file_id}")
    plan = plan_gc(store, ledger, store._clock() + 1e7)
    assert plan.blobs == (), "the run has not ended"
    assert work()["dataset"] == "made@1"
    ledger.set_phase(run["id"], "failed", error={"code": "internal", "message": "", "hint": ""})
    assert api.call("POST", f"/api/v1/runs/{run['id']}/resume").status_code == 202
    problem = api.refused("POST", ROOT, 404, json=recipe)
    assert file_id in problem["detail"]


ELSEWHERE = (
    "data.example/x.txt",
    "data.example.evil/corpora/x.txt",
    "u@data.example/corpora/x.txt",
    "data.example/corpora/../x.txt",
    "data.example/corpora/%2e%2e/x.txt",
    "DATA.example/corpora/x.txt",
)


def at(path: str) -> dict[str, Any]:
    return {"sources": [{"path": f"https://{path}", "sha256": "a" * 64}]}


@pytest.mark.parametrize(("change", "param"), [
    ({"sources": [{"path": "/etc/passwd"}]}, "sources.0.path"),
    ({"sources": [{"path": "corpora"}]}, "sources.0.path"),
    ({"sources": [{"path": "file:///etc/passwd"}]}, "sources.0.path"),
    ({"sources": [{"path": "http://169.254.169.254/", "sha256": "a" * 64}]}, "sources.0.path"),
    ({"sources": [{"path": "hf://datasets/a/b"}]}, "sources.0.path"),
    *((at(path), "sources.0.path") for path in ELSEWHERE),
    ({"sources": [{"path": "https://data.example/corpora/x.txt"}]}, None),
    ({"sources": [{"content": {"name": "a", "sha256": "a" * 64, "size_bytes": 1}}]},
     "sources.0.content"),
    ({"decontaminate": {"paths": ["/etc/passwd"]}}, "decontaminate"),
    ({"type": "os:system"}, "sources.0.type"),
    ({"type": "txt" * 1000}, "sources.0.type"),
    ({"sources": []}, None),
    ({"sources": [{}]}, None),
    ({"sources": [{"path": "x", "file": "file_1"}]}, None),
    ({"sources": "x" * 1000}, None),
    ({"sources": None}, None),
    ({"name": "../up"}, None),
    ({"name": "a\0"}, None),
    ({"tokenizer": {"vocab_size": 10**400}}, None),
    ({"chat_fraction": 1e308 * 10}, None),
    ({"sha256": "a" * 64}, None),
    ({"unknown": 1}, None),
])  # fmt: skip
def test_impossible_recipes_start_nothing(api, recipe, jobs, store, change, param):
    before = stored(store)
    source = {key: change.pop(key) for key in ("type", "sha256") if key in change}
    values = recipe | {"sources": [recipe["sources"][0] | source]} | change
    content = json.dumps(values)
    for path, body in (
        (ROOT, content),
        ("/api/v1/runs", f'{{"kind": "prepare", "config": {content}}}'),
    ):
        reply = api.refused(
            "POST", path, 400, content=body, headers={"content-type": "application/json"}
        )
        assert len(reply["detail"]) < 500
        if param:
            assert reply["param"] == param
    assert jobs.submitted == []
    assert stored(store) == before


@pytest.mark.parametrize(("content", "status"), [
    (b"", 400),
    (b"null", 400),
    (b"[]", 400),
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b"[" * 10_000 + b"]" * 10_000, 400),
    (b'{"name": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400),
    (b'{"name": "\\ud800"}', 400),
    (b'{"name": ' + b"9" * 5000 + b"}", 400),
    (b'{"name": NaN}', 400),
    (json.dumps({str(n): n for n in range(1000)}).encode(), 400),
    (b'{"name": "' + b"x" * (10 << 20) + b'"}', 413),
])  # fmt: skip
def test_bodies_that_are_no_recipes(api, jobs, content, status):
    headers = {"content-type": "application/json"}
    for path in (ROOT, "/api/v1/runs"):
        api.refused("POST", path, status, content=content, headers=headers)
    api.refused("POST", ROOT, 400, content=b"{}", headers={"content-type": "text/plain"})
    assert jobs.submitted == []


def test_a_file_that_is_not_there(api, recipe, jobs):
    for file_id in ("file_none", "../../etc/passwd", "\0", "x" * 10_000):
        values = recipe | {"sources": [{"file": file_id}]}
        problem = api.refused("POST", ROOT, 404, json=values)
        assert len(problem["detail"]) < 300
    assert jobs.submitted == []


def test_keys_for_inference_may_not(api, recipe, jobs):
    api.refused("POST", ROOT, 403, json=recipe, key=WEAK_KEY)
    assert jobs.submitted == []
