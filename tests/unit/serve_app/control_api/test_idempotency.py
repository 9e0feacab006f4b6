"""A create that is sent twice happens once."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from mulm.errors import NotRunningError
from serve_app.auth import digest_of
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
    first = send(api, KEYS, json={"name": "friend"})
    made = first.json()
    before = len(ledger.valid_keys())
    problem = api.refused(
        "POST", KEYS, 409, json={"name": "friend"}, headers={"idempotency-key": "k-1"}
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
