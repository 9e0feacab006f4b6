"""`/api/v1/deployments`: made, changed, scaled, given a canary, promoted, rolled back, removed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from mulm.engine.stats import EngineStats
from mulm.errors import NotRunningError
from mulm.ledger import Ledger
from mulm.testing import tiny_llama3_tokenizer, tiny_stored_model, tiny_tokenizer
from serve_app.engine_report import EngineReport, Place
from serve_app.ingress import make_app
from serve_app.serve_plan import ServePlan
from serve_app.service import Service
from tests.unit.serve_app.control_api.conftest import Api

URL = "/api/v1/deployments"

pytestmark = pytest.mark.usefixtures("versions")


def put(api, body, name="tiny", status=202, **headers):
    reply = api.call("PUT", f"{URL}/{name}", json=body, headers=headers)
    assert reply.status_code == status, reply.text
    return reply


def test_a_model_is_deployed_and_soon_runs(api, look):
    reply = put(api, {"model": "tiny@1", "max_replicas": 3})
    assert reply.headers["location"] == f"{URL}/tiny"
    made = reply.json()
    assert (made["status"], made["revision"], made["model"]) == ("starting", 1, "tiny@1")
    look()
    found = api.get(f"{URL}/tiny")
    assert (found["status"], found["message"]) == ("running", "")
    assert found["serves"] == {"tiny": "tiny@1"}
    assert found["settings"]["max_replicas"] == 3
    assert found["traffic"] == [{"model": "tiny@1", "weight": 100.0}]
    assert [each["id"] for each in api.get(URL)["data"]] == ["tiny"]
    assert [model["id"] for model in api.get("/v1/models")["data"]] == ["tiny"]


def test_a_bare_name_is_pinned_and_an_alias_followed(api, ledger):
    assert put(api, {"model": "tiny"}).json()["model"] == "tiny@2"
    ledger.set_alias("model", "tiny", "live", 1)
    assert put(api, {"model": "tiny@live"}).json()["model"] == "tiny@live"


def test_post_makes_only_what_is_not_there(api):
    reply = api.call("POST", URL, json={"model": "tiny@1", "served_name": "mine"})
    assert (reply.status_code, reply.headers["location"]) == (202, f"{URL}/mine")
    told = api.refused("POST", URL, 409, json={"model": "tiny@2", "served_name": "mine"})
    assert told["hint"] == "PUT changes it"
    assert api.get(f"{URL}/mine")["model"] == "tiny@1"
    api.refused("POST", URL, 400, json={})


def test_a_post_that_is_sent_twice_with_a_key_happens_once(api):
    once = {"idempotency-key": "one"}
    for replayed in (None, "true"):
        reply = api.call("POST", URL, json={"model": "tiny@1"}, headers=once)
        assert (reply.status_code, reply.headers.get("idempotency-replayed")) == (202, replayed)
    assert api.get(f"{URL}/tiny")["revision"] == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "nobody"}, 404),
        ({"model": "tiny@9"}, 404),
        ({"model": "tiny@1", "n_slots": 0}, 400),
        ({"model": "tiny@1", "min_replicas": 3, "max_replicas": 2}, 400),
        ({"model": "tiny@1", "max_seq_len": 10**6}, 400),
        ({"model": "tiny@1", "nonsense": 1}, 400),
        ({"model": "../x"}, 400),
        ({"model": "tiny@1", "draft": "other"}, 409),
        ({"model": "tiny@1", "adapters": {"a": "tiny@2"}}, 409),
        ({}, 400),
        ([], 400),
    ],
)
def test_what_cannot_be_served_is_refused_and_nothing_changes(api, ledger, store, body, status):
    ledger.publish("model", "other", tiny_stored_model(store, tiny_llama3_tokenizer()).id)
    api.refused("PUT", f"{URL}/tiny", status, json=body)
    assert ledger.deployments() == []


@pytest.mark.parametrize("name", ["A", "..x", "a%00b", "x" * 65, "%F0%9F%90%89"])
def test_a_name_is_a_name(api, ledger, name):
    api.refused("PUT", f"{URL}/{name}", 400, json={"model": "tiny@1"})
    assert ledger.deployments() == []


@pytest.fixture
def fits(monkeypatch):
    """Every adapter fits every model."""
    monkeypatch.setattr(
        "serve_app.control_api.deployments.plan_serving", lambda args, *_: ServePlan(args, {})
    )


def test_two_deployments_share_no_name(api, fits):
    put(api, {"model": "tiny@1"}, "one")
    told = api.refused(
        "PUT", f"{URL}/two", 409, json={"model": "tiny@1", "adapters": {"one": "tiny@2"}}
    )
    assert told["detail"] == "'one' is served by the deployment 'one' already"


def test_it_is_scaled_and_renewed_by_a_patch(api):
    put(api, {"model": "tiny@1"})
    reply = api.call("PATCH", f"{URL}/tiny", json={"max_replicas": 5})
    assert reply.status_code == 202
    found = reply.json()
    assert (found["settings"]["max_replicas"], found["model"]) == (5, "tiny@1")
    api.call("PATCH", f"{URL}/tiny", json={"model": "tiny@2"})
    found = api.get(f"{URL}/tiny")
    assert (found["settings"]["max_replicas"], found["model"]) == (5, "tiny@2")
    api.refused("PATCH", f"{URL}/tiny", 400, json={"max_replicas": 0})
    api.refused("PATCH", f"{URL}/none", 404, json={"max_replicas": 1})


def test_a_patch_of_what_holds_already_changes_nothing(api, ledger):
    etag = put(api, {"model": "tiny@1", "max_replicas": 3}).headers["etag"]
    for body in ({}, {"max_replicas": 3}, {"model": "tiny@1"}):
        for headers in ({}, {"if-match": etag}):
            reply = api.call("PATCH", f"{URL}/tiny", json=body, headers=headers)
            assert (reply.status_code, reply.headers["etag"]) == (202, etag)
    assert len(ledger.deployment_history("tiny")) == 1


def test_what_is_served_is_no_canary_of_itself(api, ledger):
    ledger.set_alias("model", "tiny", "live", 1)
    ledger.set_alias("model", "tiny", "next", 1)
    for model in ("tiny@1", "tiny@live"):
        put(api, {"model": model})
        told = api.refused("PUT", f"{URL}/tiny/canary", 409, json={"model": "tiny@1"})
        assert told["detail"] == "tiny serves tiny@1 already"
        assert told["hint"] == "name another version as its canary"
    api.refused("PUT", f"{URL}/tiny/canary", 409, json={"model": "tiny@live"})
    reply = api.call("PUT", f"{URL}/tiny/canary", json={"model": "tiny@next"})
    assert reply.status_code == 202, "an alias moves"


def test_only_what_was_seen_is_changed(api):
    etag = put(api, {"model": "tiny@1"}).headers["etag"]
    put(api, {"model": "tiny@2"}, **{"if-match": etag})
    stale = {"if-match": etag}
    for method, path, body in (
        ("PUT", "", {"model": "tiny@1"}),
        ("PATCH", "", {"n_slots": 3}),
        ("DELETE", "", None),
        ("PUT", "/canary", {"model": "tiny@1"}),
        ("DELETE", "/canary", None),
        ("POST", "/promote", None),
        ("POST", "/rollback", {}),
    ):
        told = api.refused(method, f"{URL}/tiny{path}", 412, json=body, headers=stale)
        assert told["code"] == "precondition_failed"
    api.refused("PUT", f"{URL}/tiny", 412, json={"model": "tiny@1"}, headers={"if-none-match": "*"})
    assert api.get(f"{URL}/tiny")["revision"] == 2


def test_a_canary_is_tried_and_promoted(api, look):
    put(api, {"model": "tiny@1"})
    body = {"model": "tiny", "weight": 20, "min_requests": 5}
    reply = api.call("PUT", f"{URL}/tiny/canary", json=body)
    assert reply.status_code == 202, reply.text
    look()
    found = api.get(f"{URL}/tiny")
    assert found["status"] == "running"
    assert found["traffic"] == [
        {"model": "tiny@1", "weight": 80.0},
        {"model": "tiny@2", "weight": 20.0},
    ]
    assert found["canary"]["seen"]["canary"] == {
        "requests": 0, "failures_percent": 0.0, "first_token_s": None,
    }  # fmt: skip
    assert len(found["replicas"]) == 2
    assert api.call("POST", f"{URL}/tiny/promote").status_code == 202
    look()
    found = api.get(f"{URL}/tiny")
    assert (found["model"], found["canary"], found["status"]) == ("tiny@2", None, "running")
    assert len(found["replicas"]) == 1


def test_a_canary_is_ended_and_cannot_be_promoted_then(api):
    put(api, {"model": "tiny@1"})
    for method, path in (("POST", "promote"), ("DELETE", "canary")):
        assert api.refused(method, f"{URL}/tiny/{path}", 409)["hint"] == "PUT one first"
    api.refused("PUT", f"{URL}/tiny/canary", 404, json={"model": "nobody"})
    api.refused("PUT", f"{URL}/tiny/canary", 400, json={"model": "tiny@2", "weight": 100})
    assert api.call("PUT", f"{URL}/tiny/canary", json={"model": "tiny@2"}).status_code == 202
    assert api.call("DELETE", f"{URL}/tiny/canary").status_code == 202
    assert api.get(f"{URL}/tiny")["canary"] is None


def test_it_is_rolled_back_to_what_was_before_or_to_any_revision(api):
    put(api, {"model": "tiny@1", "n_slots": 3})
    put(api, {"model": "tiny@2", "n_slots": 4})
    api.call("PUT", f"{URL}/tiny/canary", json={"model": "tiny@1"})
    found = api.call("POST", f"{URL}/tiny/rollback").json()
    assert (found["model"], found["settings"]["n_slots"], found["canary"]) == ("tiny@1", 3, None)
    assert found["reason"] == "back to revision 1"
    found = api.call("POST", f"{URL}/tiny/rollback", json={"revision": 2}).json()
    assert (found["model"], found["revision"]) == ("tiny@2", 5)
    api.refused("POST", f"{URL}/tiny/rollback", 404, json={"revision": 99})
    history = api.get(f"{URL}/tiny/history")["data"]
    assert [each["revision"] for each in history] == [5, 4, 3, 2, 1]
    assert history[2]["canary"] == "tiny@1"
    paged = api.get(f"{URL}/tiny/history?limit=2&after={history[1]['id'].replace('#', '%23')}")
    assert [each["revision"] for each in paged["data"]] == [3, 2]


def test_going_back_twice_leads_on_to_what_was_before(api):
    for n_slots in (3, 4, 5):
        put(api, {"model": "tiny@1", "n_slots": n_slots})
    for n_slots in (4, 3):
        found = api.call("POST", f"{URL}/tiny/rollback").json()
        assert found["settings"]["n_slots"] == n_slots
    told = api.refused("POST", f"{URL}/tiny/rollback", 404)
    assert told["detail"] == "tiny has served nothing else before revision 1"
    put(api, {"model": "tiny@1", "n_slots": 6})
    assert api.call("POST", f"{URL}/tiny/rollback").json()["settings"]["n_slots"] == 3
    api.refused("POST", f"{URL}/tiny/rollback", 404)


def test_a_first_deployment_has_nothing_to_go_back_to(api):
    put(api, {"model": "tiny@1"})
    api.refused("POST", f"{URL}/tiny/rollback", 404)
    api.refused("GET", f"{URL}/none/history", 404)


def test_what_is_removed_is_served_no_more(api, look):
    put(api, {"model": "tiny@1"})
    look()
    assert api.call("DELETE", f"{URL}/tiny").status_code == 204
    api.refused("GET", f"{URL}/tiny", 404)
    api.refused("DELETE", f"{URL}/tiny", 404)
    look()
    assert api.get("/v1/models")["data"] == []


def test_an_engine_that_fails_says_why(api, look, serve):
    put(api, {"model": "tiny@1"})
    serve.failing["engine-tiny"] = "Traceback\nmulm.errors.CorruptError: weights are broken\n"
    look()
    found = api.get(f"{URL}/tiny")
    assert (found["status"], found["message"]) == ("failed", "corrupt: weights are broken")


def test_a_revision_that_nobody_has_seen_yet_does_not_run(api, look, serve):
    put(api, {"model": "tiny@1"})
    look()
    assert api.get(f"{URL}/tiny")["status"] == "running"
    assert put(api, {"model": "tiny@2"}).json()["status"] == "starting"
    serve.starting.add("engine-tiny")
    look()
    assert api.get(f"{URL}/tiny")["status"] == "starting"
    serve.starting.clear()
    assert api.get(f"{URL}/tiny")["status"] == "running"


def test_replicas_tell_where_they_really_run(api, look, reports):
    put(api, {"model": "tiny@1"})
    look()
    [replica] = api.get(f"{URL}/tiny")["replicas"]
    assert (replica["state"], replica["node"], "device" in replica) == ("running", "::1", False)
    stats = EngineStats(2, 1, 30, 10, 4, 5, 600, 70, 800, 90)
    place = Place("engine-tiny-r1", "GeForce RTX 3060", "int8", 123)
    reports.append(EngineReport("mdl_1", "eng_1", stats, "tiny", 55.5, place))
    [replica] = api.get(f"{URL}/tiny")["replicas"]
    assert {k: replica[k] for k in ("device", "dtype", "memory_bytes", "tokens_per_s")} == {
        "device": "GeForce RTX 3060", "dtype": "int8", "memory_bytes": 123, "tokens_per_s": 55.5,
    }  # fmt: skip
    assert (replica["running"], replica["waiting"], replica["kv_use"]) == (2, 1, 0.6)


def test_a_change_that_is_written_is_acknowledged_while_serve_is_away(api, look, serve):
    put(api, {"model": "tiny@1"})
    look()

    def away(*_args, **_kwargs):
        raise NotRunningError("nobody is there")

    serve.request = away
    reply = api.call("PATCH", f"{URL}/tiny", json={"max_replicas": 4})
    assert (reply.status_code, reply.json()["revision"]) == (202, 2)
    look()
    [found] = api.get(URL)["data"]
    assert (found["status"], found["message"]) == ("starting", "nobody is there")
    assert found["replicas"] == []


def test_two_who_take_a_name_at_once_do_not_both_get_it(api, ledger, fits, monkeypatch):
    """However many servers there are: the ledger decides, in one transaction."""
    look, others = ledger.deployments, []

    def take(name):
        body = {"model": "tiny@1", "adapters": {"beside": "tiny@2"}}
        return api.call("PUT", f"{URL}/{name}", json=body)

    def looked():
        found = look()
        if not others:  # the other one comes between the look and the writing
            others.append(None)
            others[0] = take("two")
        return found

    monkeypatch.setattr(ledger, "deployments", looked)
    one = take("one")
    assert others[0].status_code == 202
    assert one.status_code == 409
    assert "'beside' is served by the deployment 'two'" in one.json()["detail"]
    assert [each.name for each in look()] == ["two"]


def test_two_servers_on_one_ledger_give_a_name_once(api, ledger, home, fits):
    with Ledger(home.ledger) as other:
        control = replace(api.app.state.control, facts=other)
        ring = api.app.state.keys
        servers = [api, Api(make_app(Service({}), ring, control=control))]
        assert [server.get(URL)["data"] for server in servers] == [[], []]

        def take(number, server):
            body = {"model": "tiny@1", "adapters": {f"beside{number}": "tiny@2"}}
            name = f"name{number}-{servers.index(server)}"
            return server.call("PUT", f"{URL}/{name}", json=body).status_code

        def create(number, server):
            body = {"model": "tiny@1", "served_name": f"same{number}"}
            return server.call("POST", URL, json=body).status_code

        with ThreadPoolExecutor(2) as pool:
            for number in range(6):
                for act in (take, create):
                    told = pool.map(partial(act, number), servers)
                    assert sorted(told) == [202, 409], (number, act)
    assert len(ledger.deployments()) == 12


def test_a_create_is_made_though_another_one_came_between_its_look_and_its_writing(
    api, ledger, fits, monkeypatch
):
    look, others = ledger.deployments, []

    def looked():
        found = look()
        if not others:
            spec = {"args": {"model": "tiny@1", "served_name": "two"}}
            others.append(ledger.set_deployment("two", spec, "test"))
        return found

    monkeypatch.setattr(ledger, "deployments", looked)
    body, headers = {"model": "tiny@1", "served_name": "one"}, {"idempotency-key": "k-1"}
    made = api.call("POST", URL, json=body, headers=headers)
    assert made.status_code == 202
    assert {each.name for each in look()} == {"one", "two"}
    again = api.call("POST", URL, json=body, headers=headers)
    assert (again.status_code, again.content) == (202, made.content)


def test_what_changes_beside_it_all_the_time_is_not_looked_at_for_ever(
    api, ledger, fits, monkeypatch
):
    look, numbers = ledger.deployments, iter(range(1000))

    def looked():
        found = look()
        spec = {"args": {"model": "tiny@1", "served_name": f"s{next(numbers)}"}}
        ledger.set_deployment(spec["args"]["served_name"], spec, "test")
        return found

    monkeypatch.setattr(ledger, "deployments", looked)
    told = api.refused("PUT", f"{URL}/one", 409, json={"model": "tiny@1"})
    assert "all the time" in told["detail"]
    assert next(numbers) < 30


def test_settings_that_do_not_fit_the_canary_are_refused(api, ledger, store):
    small = tiny_stored_model(store, tiny_tokenizer(), max_seq_len=16)
    ledger.publish("model", "small", small.id)
    put(api, {"model": "tiny@1"})
    assert api.call("PUT", f"{URL}/tiny/canary", json={"model": "small@1"}).status_code == 202
    told = api.refused("PATCH", f"{URL}/tiny", 400, json={"max_seq_len": 17})
    assert "small@1" in told["detail"]
    assert api.get(f"{URL}/tiny")["revision"] == 2


def test_a_row_of_another_version_keeps_nobody_else_waiting(api, ledger, look):
    strange = {"args": {"model": "tiny@1", "served_name": "bad", "of_tomorrow": 1}}
    ledger.set_deployment("bad", strange, "test")
    put(api, {"model": "tiny@1"})
    look()
    assert api.get(f"{URL}/tiny")["status"] == "running"
    put(api, {"model": "tiny@2"}, "bad")
    look()
    assert api.get(f"{URL}/bad")["status"] == "running"


def test_the_same_again_changes_nothing_and_begins_what_has_failed_anew(api, look, serve):
    put(api, {"model": "tiny@1"})
    look()
    api.call("PUT", f"{URL}/tiny/canary", json={"model": "tiny@2"})
    assert put(api, {"model": "tiny@1"}).json()["revision"] == 2
    assert api.get(f"{URL}/tiny")["canary"]["model"] == "tiny@2", "it goes on"
    look()
    serve.failing["engine-tiny"] = "no GPU was free"
    look()
    assert api.get(f"{URL}/tiny")["status"] == "failed"
    assert put(api, {"model": "tiny@1"}).json()["revision"] == 3
    serve.failing.clear()
    look()
    assert api.get(f"{URL}/tiny")["status"] == "running"


def test_a_row_that_cannot_be_read_is_told_as_failed_and_can_be_set_anew(api, ledger, look):
    ledger.set_deployment("odd", {"args": {"model": "tiny@1", "of_later": 1}}, "by a later version")
    [found] = api.get(URL)["data"]
    assert (found["id"], found["status"], found["model"]) == ("odd", "failed", None)
    assert "of_later" in found["message"]
    assert api.get(f"{URL}/odd")["reason"] == "by a later version"
    assert [each["model"] for each in api.get(f"{URL}/odd/history")["data"]] == [None]
    put(api, {"model": "tiny@1"}, "odd")
    look()
    assert api.get(f"{URL}/odd")["status"] == "running"


def test_fields_that_disagree_are_told_as_they_are(api):
    body = {"model": "tiny@1", "min_replicas": 3, "max_replicas": 1}
    for method, path in (("POST", URL), ("PUT", f"{URL}/tiny")):
        told = api.refused(method, path, 400, json=body)
        assert told["code"] == "invalid_value"
        assert told["detail"] == "max_replicas must not be smaller than min_replicas"
    assert api.refused("POST", URL, 400, json=[])["code"] == "invalid_json"


def test_a_name_in_the_body_that_is_not_the_addresss_is_refused(api):
    put(api, {"model": "tiny@1"})
    assert api.refused("PATCH", f"{URL}/tiny", 400, json={"served_name": "other"})["param"]
    body = {"model": "tiny@1", "served_name": "other"}
    assert api.refused("PUT", f"{URL}/tiny", 400, json=body)["param"] == "served_name"
    put(api, body | {"served_name": "tiny"})


def test_if_match_takes_a_star_and_lists(api):
    star = {"if-match": "*"}
    absent = api.refused("PUT", f"{URL}/tiny", 412, json={"model": "tiny@1"}, headers=star)
    assert absent["code"] == "precondition_failed"
    put(api, {"model": "tiny@1"})
    put(api, {"model": "tiny@2"}, **star)
    put(api, {"model": "tiny@1"}, **{"if-match": '"1", "2"'})
    for stale in ('"1", "2"', '"x", "y"', "x", "*, x"):
        headers = {"if-match": stale}
        api.refused("PUT", f"{URL}/tiny", 412, json={"model": "tiny@2"}, headers=headers)
    assert api.call("DELETE", f"{URL}/tiny", headers=star).status_code == 204
