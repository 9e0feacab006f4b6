from __future__ import annotations

from dataclasses import replace

import pytest

from mulm.accounts import KeyLimits
from mulm.errors import NotFoundError
from serve_app.key_text import FOR_KEY, digest_of
from serve_app.service import Fixed
from tests.unit.serve_app.control_api.conftest import SECRET, WEAK_KEY

ROOT = "/api/v1/keys"


def test_a_key_is_shown_once_and_known_by_its_digest_alone(api, ledger):
    reply = api.call("POST", ROOT, json={"name": "a friend"})
    assert (reply.status_code, reply.headers["cache-control"]) == (201, "no-store")
    made = reply.json()
    assert made["scope"] == "inference", "the lesser one unless asked for"
    assert ledger.key_secrets()[digest_of(made["key"], SECRET)].id == made["id"]
    listed = api.call("GET", ROOT).text
    assert made["id"] in listed
    assert "mulm_sk_" not in listed
    assert api.call("GET", "/openapi.json", key=made["key"]).status_code == 200


def test_a_revoked_key_is_none_any_more(api, ledger):
    assert api.call("DELETE", f"{ROOT}/key_2").status_code == 204
    with pytest.raises(NotFoundError):
        ledger.key("key_2")
    assert api.refused("DELETE", f"{ROOT}/key_2", 404)["code"] == "not_found"
    assert api.refused("GET", ROOT, 401, key=WEAK_KEY)["code"] == "unauthorized"
    assert api.refused("DELETE", f"{ROOT}/key_1", 409)["code"] == "conflict", "not itself"


def test_a_key_that_was_revoked_a_moment_ago_makes_and_changes_none(api, ledger):
    """Elsewhere: this ingress may let it in for some seconds, and what it made would stay."""
    made = api.call("POST", ROOT, json={"name": "second", "scope": "all"}).json()
    assert api.call("GET", ROOT, key=made["key"]).status_code == 200
    ledger.remove_key(made["id"])
    before = ledger.valid_keys()
    for method, path in (
        ("POST", ROOT), ("POST", f"{ROOT}/key_2/rotate"), ("PATCH", f"{ROOT}/key_2"),
        ("DELETE", f"{ROOT}/key_2"),
    ):  # fmt: skip
        problem = api.refused(method, path, 401, key=made["key"], json={"name": "third"})
        assert problem["code"] == "unauthorized"
    assert ledger.valid_keys() == before


FOR_INFERENCE = {("post", "/api/v1/feedback")}
"""What a key that may have a model answer may do beside that: say what it thinks of the answer."""


def test_a_key_for_inference_opens_nothing_of_the_control_api_but_feedback(api):
    paths = api.call("GET", "/openapi.json").json()["paths"]
    seen = 0
    for path, methods in paths.items():
        if path.startswith("/api/"):
            for method in {method for method in methods if (method, path) not in FOR_INFERENCE}:
                url = path.replace("{kinds}", "models").replace("{", "x").replace("}", "")
                problem = api.refused(method.upper(), url, 403, key=WEAK_KEY, json={"name": "x"})
                assert problem["code"] == "forbidden"
                seen += 1
    assert seen >= 15
    for method, path in FOR_INFERENCE:
        assert api.call(method.upper(), path, key=WEAK_KEY, json={}).status_code == 400
    assert api.call("GET", "/v1/models", key=WEAK_KEY).is_success


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "a\nb"},
        {"name": "a", "scope": "x"},
        {"name": "a", "expires_in_s": 0},
        {"name": "a", "limits": {"requests_per_minute": 0}},
        {"name": "a", "limits": {"requests_per_hour": 1}},
        {"name": "a", "limits": {"token_quota": 10**30}},
        {"name": "a", "models": [""]},
    ],
)
def test_what_is_no_key_is_not_made(api, ledger, body):
    api.refused("POST", ROOT, 400, json=body)
    assert len(ledger.valid_keys()) == 2


def test_a_key_has_what_it_was_made_with_and_is_changed_in_part(api):
    limits = {"requests_per_minute": 5, "token_quota": 1000}
    body = {"name": "a friend", "models": ["tiny"], "expires_in_s": 3600, "limits": limits}
    made = api.call("POST", ROOT, json=body).json()
    path = f"{ROOT}/{made['id']}"
    one = api.get(path)
    assert (one["models"], one["limits"]["token_quota"]) == (["tiny"], 1000)
    assert one["expires_at"] - one["created_at"] == pytest.approx(3600, abs=2)
    assert "key" not in one
    changed = api.call("PATCH", path, json={"limits": {"token_quota": 2000}}).json()
    assert changed["limits"] == {
        "requests_per_minute": 5, "tokens_per_minute": None, "max_concurrent": None,
        "token_quota": 2000,
    }, "a limit that is not given stays"  # fmt: skip
    lifted = api.call("PATCH", path, json={"limits": {"requests_per_minute": None}}).json()
    assert lifted["limits"] == changed["limits"] | {"requests_per_minute": None}
    assert (changed["name"], changed["expires_at"]) == ("a friend", one["expires_at"])
    changed = api.call("PATCH", path, json={"expires_in_s": None, "name": "b"}).json()
    assert (changed["expires_at"], changed["name"]) == (None, "b")
    assert api.refused("PATCH", f"{ROOT}/key_none", 404, json={})["code"] == "not_found"


def test_a_rotated_key_keeps_its_place_and_both_secrets_open_it_for_a_while(api):
    old = api.call("POST", ROOT, json={"name": "a friend"}).json()
    path = f"{ROOT}/{old['id']}/rotate"
    new = api.call("POST", path, json={"overlap_s": 3600})
    assert (new.status_code, new.headers["cache-control"]) == (200, "no-store")
    new = new.json()
    assert (new["id"], new["name"]) == (old["id"], "a friend")
    for text in (old["key"], new["key"]):
        assert api.call("GET", "/openapi.json", key=text).status_code == 200
    last = api.call("POST", path, json={}).json()
    for text, status in ((old["key"], 401), (new["key"], 401), (last["key"], 200)):
        assert api.call("GET", "/openapi.json", key=text).status_code == status
    api.refused("POST", path, 400, json={"overlap_s": -1})
    assert api.refused("POST", f"{ROOT}/key_none/rotate", 404, json={})["code"] == "not_found"


def test_the_first_key_asks_for_another_within_what_that_may_do(api):
    weak = api.call("POST", ROOT, json={"name": "weak"}).json()
    headers = {FOR_KEY: weak["id"]}
    assert api.call("GET", ROOT).status_code == 200
    assert api.call("GET", ROOT, headers=headers).status_code == 403
    assert api.call("GET", "/v1/models", headers=headers).status_code == 200
    assert api.call("GET", "/v1/models", key=weak["key"], headers=headers).status_code == 403
    api.call("DELETE", f"{ROOT}/{weak['id']}")


def test_of_two_names_of_one_model_a_reference_means_the_one_that_the_key_is_for(api, served):
    names = {name: Fixed(replace(served, name=name)) for name in ("aunt", "tiny")}
    api.app.state.service.deployments = names
    for name in names:
        key = api.call("POST", ROOT, json={"name": f"of {name}", "models": [name]}).json()["key"]
        body = {"model": "tiny@1", "prompt": "hi"}
        assert api.call("POST", "/v1/completions", key=key, json=body).is_success
    nobodys = api.call("POST", ROOT, json={"name": "nobody", "models": ["other"]}).json()["key"]
    reply = api.call("POST", "/v1/completions", key=nobodys, json=body)
    assert reply.json()["error"]["code"] == "forbidden"


def test_a_key_for_what_nobody_serves_is_made_with_a_hint(api):
    spec = {"args": {"model": "tiny@1", "served_name": "helper"}}
    api.app.state.control.facts.set_deployment("helper", spec, "test")
    made = api.call("POST", ROOT, json={"name": "x", "models": ["helper", "helpr"]}).json()
    assert made["hint"] == "nothing is served as 'helpr' now: did you mean 'helper'?"
    path = f"{ROOT}/{made['id']}"
    assert api.call("PATCH", path, json={"models": ["helper"]}).json()["hint"] is None
    assert api.call("POST", f"{path}/rotate", json={}).json()["hint"] is None
    api.app.state.control.facts.set_deployment("helper", None, "removed")
    made = api.call("POST", ROOT, json={"name": "y", "models": ["helper"]}).json()
    assert made["hint"] == "nothing is served as 'helper' now: `mulm serve` does it"


def test_a_key_for_some_models_asks_no_other_and_sees_no_other(api, scripted, served):
    api.app.state.service.deployments = {"tiny": Fixed(served)}
    other = api.call("POST", ROOT, json={"name": "x", "models": ["other"]}).json()["key"]
    mine = api.call("POST", ROOT, json={"name": "y", "models": ["tiny"]}).json()["key"]
    bodies = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
        "/v1/completions": {"prompt": "hi"},
        "/v1/responses": {"input": "hi"},
        "/v1/embeddings": {"input": "hi"},
        "/v1/tokenize": {"prompt": "hi"},
        "/v1/detokenize": {"tokens": [40]},
    }
    for path, body in bodies.items():
        for name in ("tiny", "tiny@1", "mdl_1"):
            reply = api.call("POST", path, key=other, json={"model": name} | body)
            error = reply.json()["error"]
            assert (reply.status_code, error["code"], error["param"]) == (403, "forbidden", "model")
    assert scripted.requests == []
    assert api.call("GET", "/v1/models", key=other).json()["data"] == []
    assert api.call("GET", "/v1/models/tiny", key=other).status_code == 403
    assert api.call(
        "POST", "/v1/completions", key=mine, json={"model": "tiny", "prompt": "hi"}
    ).is_success
    assert [m["id"] for m in api.call("GET", "/v1/models", key=mine).json()["data"]] == ["tiny"]


def test_a_change_that_another_one_passed_is_refused(api, ledger, monkeypatch):
    look = ledger.key

    def meanwhile(key_id):
        found = look(key_id)
        if key_id != "key_2":  # who asks
            return found
        monkeypatch.setattr(ledger, "key", look)
        ledger.change_key(replace(found, limits=KeyLimits(requests_per_minute=5)))
        return found

    monkeypatch.setattr(ledger, "key", meanwhile)
    told = api.refused("PATCH", f"{ROOT}/key_2", 409, json={"name": "other"})
    assert told["code"] == "conflict"
    assert "changed meanwhile" in told["detail"]
    kept = look("key_2")
    assert (kept.name, kept.limits.requests_per_minute) == ("friend", 5)
    assert api.call("PATCH", f"{ROOT}/key_2", json={"name": "other"}).is_success


def test_two_keys_never_have_one_name(api, ledger):
    """Else a name on the command line would mean neither."""
    old = api.call("POST", ROOT, json={"name": "a friend", "expires_in_s": 1}).json()
    for method, path, body in (
        ("POST", ROOT, {"name": "a friend"}),
        ("PATCH", f"{ROOT}/key_2", {"name": "a friend"}),
        ("POST", ROOT, {"name": "first"}),
    ):
        told = api.refused(method, path, 409, json=body)
        assert (told["code"], told["param"]) == ("conflict", "name")
    assert old["id"] in api.refused("POST", ROOT, 409, json={"name": "a friend"})["hint"]
    assert len(ledger.valid_keys()) == 3
    assert api.call("PATCH", f"{ROOT}/{old['id']}", json={"name": "a friend"}).is_success, "its own"
    assert api.call("DELETE", f"{ROOT}/{old['id']}").status_code == 204
    assert api.call("POST", ROOT, json={"name": "a friend"}).status_code == 201


def test_a_first_key_that_shall_end_is_told_what_ends_with_it(api):
    ending = {"expires_in_s": 3600}
    assert "mulm up" in api.call("PATCH", f"{ROOT}/key_1", json=ending).json()["hint"]
    assert api.call("PATCH", f"{ROOT}/key_2", json=ending).json()["hint"] is None
    assert api.call("PATCH", f"{ROOT}/key_1", json={"expires_in_s": None}).json()["hint"] is None


def test_a_key_for_everything_that_names_models_is_said_to_be_wide(api, versions):
    api.call("POST", "/api/v1/deployments", json={"model": "tiny@1"})
    for scope, words in (("all", "scope all"), ("inference", "")):
        order = {"name": scope, "scope": scope, "models": ["tiny"]}
        assert words in (api.call("POST", ROOT, json=order).json()["hint"] or "")
    assert api.call("POST", ROOT, json={"name": "x", "scope": "all"}).json()["hint"] is None


def test_seconds_are_a_number(api):
    order = {"name": "x", "expires_in_s": "5"}
    assert api.refused("POST", ROOT, 400, json=order)["param"] == "expires_in_s"
    assert api.refused("PATCH", f"{ROOT}/key_2", 400, json={"expires_in_s": "5"})["param"]
