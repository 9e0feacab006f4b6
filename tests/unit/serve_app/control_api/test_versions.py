from __future__ import annotations

import pytest

LIVE = "/api/v1/models/tiny/aliases/live"


def test_versions_are_listed_newest_first_and_told_with_what_made_them(api, versions):
    found = api.get("/api/v1/models")
    assert [version["id"] for version in found["data"]] == ["tiny@2", "tiny@1"]
    page = api.get("/api/v1/models?limit=1")
    assert (page["has_more"], page["last_id"]) == (True, "tiny@2")
    assert [v["id"] for v in api.get("/api/v1/models?after=tiny@2")["data"]] == ["tiny@1"]
    assert api.get("/api/v1/models?name=other")["data"] == []
    one = api.get("/api/v1/models/tiny@1")
    assert {file["name"] for file in one["files"]} >= {"config.json", "tokenizer.json"}
    assert api.get("/api/v1/models/tiny")["id"] == "tiny@2"
    assert api.get("/api/v1/datasets/text")["object"] == "dataset"
    assert api.get("/api/v1/tokenizers")["data"] == []


def test_an_alias_moves_and_remembers(api, ledger, versions):
    assert api.refused("GET", LIVE, 404)["code"] == "not_found"
    made = api.call("PUT", LIVE, json={"version": 1})
    assert (made.status_code, made.headers["etag"]) == (200, '"1"')
    moved = api.call("PUT", LIVE, json={"version": 2}, headers={"if-match": '"1"'})
    assert moved.json()["ref"] == "tiny@2"
    told = api.get(LIVE)
    assert [past["ref"] for past in told["history"]] == ["tiny@2", "tiny@1"]
    assert api.get("/api/v1/models/tiny@2")["aliases"] == ["live"]
    assert [a["id"] for a in api.get("/api/v1/models/tiny/aliases")["data"]] == ["tiny@live"]
    assert ledger.aliases("model", "tiny") == {"live": 2}
    last = ledger.last_happening()
    again = api.call("PUT", LIVE, json={"version": 2})
    assert (again.status_code, again.json()) == (200, told), "it points there already"
    assert ledger.last_happening() == last


def test_two_people_cannot_overwrite_each_other(api, ledger, versions):
    api.call("PUT", LIVE, json={"version": 1}, headers={"if-none-match": "*"})
    for headers in ({"if-none-match": "*"}, {"if-match": '"2"'}, {"if-match": '"x"'}):
        problem = api.refused("PUT", LIVE, 412, json={"version": 2}, headers=headers)
        assert problem["code"] == "precondition_failed"
    assert ledger.aliases("model", "tiny") == {"live": 1}


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("PUT", LIVE, {"json": {"version": 3}}, 404),
        ("PUT", LIVE, {"json": {"version": 0}}, 400),
        ("PUT", LIVE, {"json": {"version": 10**30}}, 400),
        ("PUT", LIVE, {"json": {"versions": 1}}, 400),
        ("PUT", LIVE, {"content": b"{"}, 400),
        ("PUT", "/api/v1/models/tiny/aliases/7", {"json": {"version": 1}}, 400),
        ("PUT", "/api/v1/models/tiny@1/aliases/live", {"json": {"version": 1}}, 400),
        ("PUT", "/api/v1/models/..%2f..%2fetc/aliases/live", {"json": {"version": 1}}, 404),
        ("GET", "/api/v1/models/tiny@9", {}, 404),
        ("GET", "/api/v1/models/a b", {}, 400),
        ("GET", "/api/v1/things", {}, 404),
        ("GET", "/api/v1/models?limit=101", {}, 400),
        ("PATCH", LIVE, {}, 405),
        ("GET", "/api/v2", {}, 404),
    ],
)
def test_what_is_wrong_changes_nothing(api, ledger, versions, method, path, options, status):
    api.refused(method, path, status, **options)
    assert ledger.aliases("model", "tiny") == {}


def test_a_model_has_a_card(api, versions):
    reply = api.call("GET", "/api/v1/models/tiny@1/card")
    assert reply.headers["content-type"].startswith("text/markdown")
    assert "# tiny@1" in reply.text
    assert "## Lineage" in reply.text
    api.refused("GET", "/api/v1/models/tiny@9/card", 404)
    api.refused("GET", "/api/v1/datasets/text@1/card", 404)


def test_an_alias_is_removed_and_its_history_stays(api, ledger, versions):
    path = "/api/v1/models/tiny/aliases/live"
    for number in (1, 2):
        api.call("PUT", path, json={"version": number})
    for wrong in ('"1"', '"7"', "x"):
        assert api.refused("DELETE", path, 412, headers={"if-match": wrong})["code"]
    assert api.call("DELETE", path, headers={"if-match": '"2"'}).status_code == 204
    assert api.get("/api/v1/models/tiny/aliases")["data"] == []
    assert api.refused("DELETE", path, 404)["code"] == "not_found"
    assert api.refused("DELETE", path, 412, headers={"if-match": "*"})["code"]
    assert [past.number for past in ledger.alias_history("model", "tiny", "live")] == [0, 2, 1]
    newest = api.get("/api/v1/events?limit=100")["data"][-1]
    assert (newest["subject"], newest["data"]["version"]) == ("tiny@live", 0)
    assert api.get("/api/v1/audit")["data"][0]["method"] == "DELETE"
    api.call("PUT", path, json={"version": 1})
    refs = [past["ref"] for past in api.get(path)["history"]]
    assert refs == ["tiny@1", None, "tiny@2", "tiny@1"]


def test_an_alias_that_is_served_is_not_removed(api, versions):
    path = "/api/v1/models/tiny/aliases/live"
    api.call("PUT", path, json={"version": 1})
    served = api.call("POST", "/api/v1/deployments", json={"model": "tiny@live"})
    assert served.status_code == 202, served.text
    told = api.refused("DELETE", path, 409)
    assert "tiny@live is served as 'tiny'" in told["detail"]
    assert api.get(path)["version"] == 1
    assert api.call("DELETE", "/api/v1/deployments/tiny").status_code == 204
    assert api.call("DELETE", path).status_code == 204
