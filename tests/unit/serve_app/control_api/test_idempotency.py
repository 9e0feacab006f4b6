"""A create that is sent twice happens once."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from mulm.errors import NotRunningError
from mulm.testing import tiny_dataset
from serve_app.auth import digest_of
from serve_app.control_api import idempotency
from serve_app.control_api.idempotency import REPLAYED
from tests.unit.serve_app.control_api.conftest import SECRET
from tests.unit.serve_app.control_api.test_files import LINES, upload

RUNS, DATASETS, KEYS, FILES = "/api/v1/runs", "/api/v1/datasets", "/api/v1/keys", "/v1/files"
TRAIN = {"kind": "train", "config": {"name": "made", "dataset": "text", "steps": 5}}


def send(api: Any, path: str, key: str = "k-1", **options: Any) -> httpx2.Response:
    return api.call("POST", path, **options | {"headers": {"idempotency-key": key}})


def require_same(first: httpx2.Response, again: httpx2.Response) -> None:
    assert REPLAYED not in first.headers
    assert again.headers[REPLAYED] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    for name in ("location", "content-type"):
        assert again.headers.get(name) == first.headers.get(name)


def test_a_run_is_begun_once(api, versions, jobs):
    first = send(api, RUNS, json=TRAIN)
    assert first.status_code == 202
    require_same(first, send(api, RUNS, json=TRAIN))
    assert len(jobs.submitted) == 1
    other = TRAIN | {"config": TRAIN["config"] | {"steps": 6}}
    problem = api.refused("POST", RUNS, 422, json=other, headers={"idempotency-key": "k-1"})
    assert problem["code"] == "idempotency_key_reused"
    problem = api.refused("POST", DATASETS, 422, json=TRAIN, headers={"idempotency-key": "k-1"})
    assert problem["code"] == "idempotency_key_reused"
    assert len(jobs.submitted) == 1
    assert send(api, RUNS, "k-2", json=other).status_code == 202
    assert len(jobs.submitted) == 2


def test_keys_of_others_are_others(api, ledger, versions):
    strange = "mulm_sk_" + "s" * 43
    ledger.add_key("key_3", digest_of(strange, SECRET), "another")
    first = send(api, RUNS, json=TRAIN)
    reply = api.call("POST", RUNS, key=strange, json=TRAIN, headers={"idempotency-key": "k-1"})
    assert REPLAYED not in reply.headers
    assert reply.json()["id"] == first.json()["id"]


def test_a_dataset_is_begun_once(api, jobs):
    file_id = upload(api).json()["id"]
    recipe = {"name": "made", "sources": [{"file": file_id}]}
    first = send(api, DATASETS, json=recipe)
    assert first.status_code == 202
    require_same(first, send(api, DATASETS, json=recipe))
    assert len(jobs.submitted) == 1


def test_a_file_is_made_once(api, ledger):
    sent = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", LINES)}}
    first = send(api, FILES, **sent)
    require_same(first, send(api, FILES, **sent))
    assert len(ledger.files()) == 1
    for change in (
        {"data": {"purpose": "evals"}},
        {"files": {"file": ("b.jsonl", LINES)}},
        {"files": {"file": ("a.jsonl", LINES[:-1])}},
    ):
        reply = send(api, FILES, **sent | change)
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(ledger.files()) == 1


def test_a_secret_is_shown_once_and_kept_nowhere(api, ledger, home):
    first = send(api, KEYS, json={"name": "a friend"})
    made = first.json()
    before = len(ledger.valid_keys())
    problem = api.refused(
        "POST", KEYS, 409, json={"name": "a friend"}, headers={"idempotency-key": "k-1"}
    )
    assert problem["code"] == "secret_not_kept"
    assert made["id"] in problem["detail"]
    assert len(ledger.valid_keys()) == before
    path = f"{KEYS}/{made['id']}/rotate"
    rotated = send(api, path, "k-2", json={}).json()
    api.refused("POST", path, 409, json={}, headers={"idempotency-key": "k-2"})
    with sqlite3.connect(home.ledger) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
        rows = [row for (table,) in tables
                if not table.startswith("sqlite_") for row in database.execute(
                    f"SELECT * FROM {table}")]  # fmt: skip
    database.close()
    for text in (made["key"], rotated["key"]):
        assert text not in repr(rows)
        assert text.rpartition("_")[2] not in repr(rows)


def test_what_failed_is_not_kept(api, versions, jobs, monkeypatch):
    wrong = TRAIN | {"config": TRAIN["config"] | {"dataset": "none"}}
    api.refused("POST", RUNS, 404, json=wrong, headers={"idempotency-key": "k-1"})
    submit = jobs.submit

    def fail(*_: Any) -> str:
        raise NotRunningError("not now")

    monkeypatch.setattr(jobs, "submit", fail)
    api.refused("POST", RUNS, 503, json=TRAIN, headers={"idempotency-key": "k-1"})
    monkeypatch.setattr(jobs, "submit", submit)
    require_same(send(api, RUNS, json=TRAIN), send(api, RUNS, json=TRAIN))


def test_while_one_is_worked_on_others_are_told_so(api, versions, jobs, monkeypatch):
    has_begun, may_end = threading.Event(), threading.Event()
    submit = jobs.submit

    def slowly(*arguments: Any) -> str:
        has_begun.set()
        assert may_end.wait(10)
        return submit(*arguments)

    monkeypatch.setattr(jobs, "submit", slowly)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send, api, RUNS, json=TRAIN)
        assert has_begun.wait(10)
        problem = api.refused("POST", RUNS, 409, json=TRAIN, headers={"idempotency-key": "k-1"})
        assert problem["code"] == "idempotency_in_progress"
        may_end.set()
        require_same(first.result(), send(api, RUNS, json=TRAIN))


BATCH = {"endpoint": "/v1/completions", "completion_window": "24h"}


def things(ledger: Any, jobs: Any) -> list[int]:
    """How many there are of all that a create can make."""
    made = (ledger.runs(), ledger.files(), ledger.valid_keys(), ledger.deployments())
    return [*map(len, made), len(jobs.submitted)]


@pytest.fixture
def creates(api, versions) -> dict[str, tuple[str, dict[str, Any]]]:
    """A request of each kind."""
    file_id, batch_id = (
        upload(api, data={"purpose": purpose}).json()["id"] for purpose in ("fine-tune", "batch")
    )
    return {
        "run": (RUNS, {"json": TRAIN}),
        "dataset": (DATASETS, {"json": {"name": "made", "sources": [{"file": file_id}]}}),
        "tokenizer": ("/api/v1/tokenizers", {"json": {"name": "n", "dataset": "text"}}),
        "evaluation": ("/api/v1/evaluations", {"json": {"model": "tiny@1", "dataset": "text"}}),
        "key": (KEYS, {"json": {"name": "a friend"}}),
        "file": (FILES, {"data": {"purpose": "batch"}, "files": {"file": ("b.jsonl", LINES)}}),
        "batch": ("/v1/batches", {"json": BATCH | {"input_file_id": batch_id}}),
        "deployment": ("/api/v1/deployments", {"json": {"model": "tiny@1"}}),
    }


RUNNING = ["run", "dataset", "tokenizer", "evaluation", "batch"]


@pytest.mark.parametrize("kind", [*RUNNING, "key", "file", "deployment"])
def test_a_server_that_dies_behind_its_work_has_not_done_it_twice(
    api, ledger, jobs, creates, monkeypatch, kind
):
    path, request = creates[kind]
    with monkeypatch.context() as dying:
        end(dying, ledger, "keep_answer")
        assert send(api, path, **request).status_code == 503
    there = things(ledger, jobs)
    again = send(api, path, **request)
    assert again.status_code in (200, 201, 202)
    assert things(ledger, jobs)[:4] == there[:4], "nothing was made twice"
    # What is kept from now on is this answer.
    third = send(api, path, **request)
    if kind == "key":
        assert third.json()["code"] == "secret_not_kept"
        assert again.json()["key"], "a secret that somebody has seen"
    else:
        require_same(again, third)
    assert things(ledger, jobs)[:4] == there[:4]


@pytest.mark.parametrize("kind", RUNNING)
def test_a_server_that_dies_before_the_job_begins_has_it_begun_by_the_next(
    api, ledger, jobs, creates, monkeypatch, kind
):
    path, request = creates[kind]
    with monkeypatch.context() as dying:
        end(dying, jobs, "submit", ledger)
        assert send(api, path, **request).status_code == 503
    [run] = ledger.runs()
    assert jobs.submitted == []
    assert send(api, path, **request).status_code in (200, 202)
    assert [run_id for _, run_id, _ in jobs.submitted] == [run.id]
    assert [run] == ledger.runs()


def test_a_server_that_dies_before_anything_is_made_has_done_nothing(
    api, ledger, jobs, creates, monkeypatch
):
    path, request = creates["run"]
    with monkeypatch.context() as dying:
        end(dying, ledger, "create_run")
        assert send(api, path, **request).status_code == 503
    assert ledger.runs() == jobs.submitted == []
    assert send(api, path, **request).status_code == 202
    assert len(ledger.runs()) == len(jobs.submitted) == 1


def test_what_was_made_and_removed_since_is_not_made_again(api, ledger, creates, monkeypatch):
    path, request = creates["file"]
    before = {file.id for file in ledger.files()}
    with monkeypatch.context() as dying:
        end(dying, ledger, "keep_answer")
        send(api, path, **request)
    [made] = {file.id for file in ledger.files()} - before
    ledger.remove_file(made)
    reply = send(api, path, **request)
    assert reply.status_code == 409
    assert made in reply.json()["error"]["message"]


def test_a_run_that_is_finished_by_the_next_is_the_same_whatever_its_names_mean_by_then(
    api, ledger, store, jobs, versions, monkeypatch
):
    with monkeypatch.context() as dying:
        end(dying, ledger, "keep_answer")
        send(api, RUNS, json=TRAIN)
    other = tiny_dataset(store, n_train=2048, vocab_size=320)
    assert ledger.publish("dataset", "text", other.id).number == 2
    again = send(api, RUNS, json=TRAIN)
    assert [run.id for run in ledger.runs()] == [again.json()["id"]]
    assert ledger.runs()[0].config["dataset"] == "text@1"


def test_a_key_that_was_revoked_since_does_not_come_back(api, ledger, monkeypatch):
    before = {key.id for key in ledger.valid_keys()}
    with monkeypatch.context() as dying:
        end(dying, ledger, "keep_answer")
        send(api, KEYS, json={"name": "a friend"})
    [made] = {key.id for key in ledger.valid_keys()} - before
    ledger.remove_key(made)
    assert (
        made
        in api.refused(
            "POST", KEYS, 409, json={"name": "a friend"}, headers={"idempotency-key": "k-1"}
        )["detail"]
    )
    assert {key.id for key in ledger.valid_keys()} == before


def test_whoever_was_too_slow_shows_no_secret_that_is_not_valid(api, ledger, monkeypatch):
    """The first stands still until its claim has lapsed; the second does the work."""
    issue, second = ledger.add_key, []

    def stand_still(*arguments: Any, **options: Any) -> Any:
        if not second:
            second.append(None)
            monkeypatch.setattr(idempotency, "LEASE_S", 120.0)
            second[0] = send(api, KEYS, json={"name": "a friend"}).json()
        return issue(*arguments, **options)

    before = {key.id for key in ledger.valid_keys()}
    monkeypatch.setattr(ledger, "add_key", stand_still)
    monkeypatch.setattr(idempotency, "LEASE_S", 0.0)
    headers = {"idempotency-key": "k-1"}
    problem = api.refused("POST", KEYS, 504, json={"name": "a friend"}, headers=headers)
    assert "taken over" in problem["detail"]
    assert {key.id for key in ledger.valid_keys()} - before == {second[0]["id"]}
    assert api.call("GET", "/v1/models", key=second[0]["key"]).status_code == 200


def end(dying: Any, of: Any, name: str, ledger: Any = None) -> None:
    """The process dies where it calls that, and its claim has lapsed when another one comes."""

    def die(*_: Any, **__: Any) -> None:
        raise NotRunningError("the server is gone")

    dying.setattr(of, name, die)
    dying.setattr(ledger or of, "drop_claim", lambda _claim: None)
    dying.setattr(idempotency, "LEASE_S", 0.0)


@pytest.mark.parametrize("key", ["", " ", "two words", "x" * 256, "\x7f"])
def test_impossible_keys(api, versions, jobs, key):
    reply = api.call("POST", RUNS, json=TRAIN, headers={"idempotency-key": key})
    assert reply.status_code == 400
    assert reply.json()["param"] == "idempotency-key"
    assert jobs.submitted == []


def test_without_a_key_nothing_changes(api, versions, ledger):
    for _ in range(2):
        reply = api.call("POST", RUNS, json=TRAIN)
        assert (reply.status_code, REPLAYED in reply.headers) == (202, False)
