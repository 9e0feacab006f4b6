"""`DELETE /api/v1/datasets/{ref}`: a name goes where nothing needs it, and says why where not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from mulm.manifest import Manifest
from mulm.testing import tiny_dataset, tiny_tokenizer
from tests.unit.serve_app.control_api.conftest import WEAK_KEY

ROOT = "/api/v1/datasets"


def manifest(store: Any, kind: str, seed: str, **parents: str) -> str:
    made = Manifest(kind=kind, code_version="1", config={"seed": seed}, blobs=(), parents=parents)
    store.save(made)
    return made.id


@pytest.fixture
def made(ledger: Any, store: Any) -> None:
    """`books@1` and `@2` with a tokenizer of their own each, and `text@1`."""
    for number in ("1", "2"):
        tokenizer = manifest(store, "tokenizer", number)
        ledger.publish("tokenizer", "books", tokenizer)
        ledger.publish("dataset", "books", manifest(store, "dataset", number, tokenizer=tokenizer))
    ledger.publish("dataset", "text", tiny_dataset(store).id)


def names(ledger: Any) -> set[str]:
    found = [one for kind in ("dataset", "tokenizer") for one in ledger.versions(kind)]
    return {f"{one.kind} {one.ref}" for one in found}


def test_a_name_goes_and_its_own_tokenizer_with_it(api, made, ledger):
    before, manifest_id = names(ledger), ledger.versions("dataset", "books")[1].manifest_id
    reply = api.call("DELETE", f"{ROOT}/books@2")
    assert reply.status_code == 200
    gone = [{"kind": "dataset", "ref": "books@2"}, {"kind": "tokenizer", "ref": "books@2"}]
    assert reply.json() == {
        "id": "books@2", "object": "dataset", "manifest_id": manifest_id, "deleted": True,
        "removed": gone,
    }  # fmt: skip
    assert before - names(ledger) == {"dataset books@2", "tokenizer books@2"}
    api.get(f"{ROOT}/books@2", 404)
    assert api.get(f"{ROOT}/books")["id"] == "books@1"
    assert api.refused("DELETE", f"{ROOT}/books@2", 404)["code"] == "not_found"
    audit = api.get("/api/v1/audit")["data"]
    assert [(row["method"], row["outcome"]) for row in audit] == [
        ("DELETE", "404"), ("DELETE", "200"),
    ]  # fmt: skip
    told = api.get("/api/v1/events?limit=100")["data"]
    assert [one["subject"] for one in told if one["data"].get("is_removed")] == ["books@2"] * 2


def needed_by_alias(ledger: Any, store: Any) -> str:
    ledger.set_alias("dataset", "books", "good", 1)
    return "books@good"


def needed_by_run(ledger: Any, store: Any) -> str:
    ledger.create_run("run_1", "train", {"dataset": "books@1"})
    return "run_1"


def needed_by_model(ledger: Any, store: Any) -> str:
    dataset = ledger.versions("dataset", "books")[0].manifest_id
    ledger.publish("model", "reader", manifest(store, "model", "m", dataset=dataset))
    return "reader@1"


@pytest.mark.parametrize("need", [needed_by_alias, needed_by_run, needed_by_model])
def test_what_is_needed_keeps_its_name(api, made, ledger, store, need):
    who, before = need(ledger, store), names(ledger)
    problem = api.refused("DELETE", f"{ROOT}/books@1", 409)
    assert problem["code"] == "conflict"
    assert who in problem["detail"]
    assert problem["hint"]
    assert names(ledger) == before


def test_what_becomes_needed_in_between_keeps_all_names(api, made, ledger, monkeypatch):
    """An alias on the tokenizer, set behind each look: the dataset does not go alone."""
    before, looks, numbers = names(ledger), ledger.last_happening, count()

    def look():
        at = looks()
        ledger.set_alias("tokenizer", "books", f"good-{next(numbers)}", 1)
        return at

    monkeypatch.setattr(ledger, "last_happening", look)
    assert api.refused("DELETE", f"{ROOT}/books@1", 409)["code"] == "conflict"
    assert names(ledger) == before
    monkeypatch.undo()
    assert api.call("DELETE", f"{ROOT}/books@1").json()["removed"] == [
        {"kind": "dataset", "ref": "books@1"}
    ]


def test_a_run_that_has_ended_needs_nothing(api, made, ledger, store):
    run_id = needed_by_run(ledger, store)
    api.refused("DELETE", f"{ROOT}/books@1", 409)
    ledger.set_phase(run_id, "failed")
    assert api.call("DELETE", f"{ROOT}/books@1").status_code == 200


@pytest.mark.parametrize(
    ("ref", "status"),
    [
        ("books", 400),
        ("books@good", 400),
        ("books@0", 400),
        ("books@3", 404),
        ("nobody@1", 404),
        ("books@" + "9" * 400, 400),
        ("..%2fbooks@1", 404),
        ("a%20b@1", 400),
        ("a" * 5000, 400),
    ],
)
def test_only_what_is_named_exactly_can_go(api, made, ledger, ref, status):
    needed_by_alias(ledger, None)
    before = names(ledger)
    api.refused("DELETE", f"{ROOT}/{ref}", status)
    assert names(ledger) == before


def test_it_takes_a_key_of_the_scope_all(api, made, ledger):
    before = names(ledger)
    api.refused("DELETE", f"{ROOT}/books@1", 403, key=WEAK_KEY)
    api.refused("DELETE", f"{ROOT}/books@1", 401, key="mulm_sk_" + "x" * 43)
    api.refused("DELETE", "/api/v1/models/books@1", 405)
    assert names(ledger) == before


def test_of_many_who_remove_a_name_one_does(api, made):
    with ThreadPoolExecutor(6) as pool:
        replies = list(
            pool.map(lambda _: api.call("DELETE", f"{ROOT}/text@1").status_code, range(6))
        )
    assert sorted(replies) == [200] + [404] * 5


def test_a_tokenizer_that_others_use_stays(api, ledger, store):
    tokenizer = tiny_tokenizer()
    shared = manifest(store, "tokenizer", tokenizer.fingerprint)
    ledger.publish("tokenizer", "books", shared)
    for name in ("books", "prose"):
        ledger.publish("dataset", name, manifest(store, "dataset", name, tokenizer=shared))
    told = api.call("DELETE", f"{ROOT}/books@1").json()
    assert told["removed"] == [{"kind": "dataset", "ref": "books@1"}]
    assert names(ledger) == {"dataset prose@1", "tokenizer books@1"}
