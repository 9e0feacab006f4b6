from __future__ import annotations

import asyncio
import threading

import httpx2
import pytest
from starlette.routing import BaseRoute

from mulm.errors import NotRunningError
from serve_app.audit import READING, is_change
from serve_app.auth import OPEN_PATHS
from tests.unit.serve_app.control_api.conftest import KEY, WEAK_KEY

ROOT = "/api/v1/audit"
ALL_METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND")


def rows(api, **words) -> list[tuple]:
    found = api.get(ROOT, params={"limit": 100} | words)["data"]
    return [(r["who"], r["method"], r["route"], r["subject"], r["outcome"]) for r in found]


def routes_of(app) -> list[tuple[str, str]]:
    """Every method of every route, also those that the framework adds."""

    def walk(routes: list[BaseRoute], prefix: str = ""):
        for route in routes:
            inner = getattr(route, "original_router", None)
            if inner is not None:
                yield from walk(inner.routes)
            elif hasattr(route, "path"):
                for method in ALL_METHODS:
                    yield method, route.path

    return sorted(set(walk(app.routes)))


def filled(path: str) -> str:
    return path.replace("{kinds}", "models").replace("{", "x").replace("}", "")


def test_everything_denies_without_a_key_whatever_the_method(api):
    found = routes_of(api.app)
    assert len({path for _, path in found}) > 30
    for method, path in [*found, *((method, "/no/such") for method in ALL_METHODS)]:
        for header in ("", f"Bearer {KEY}x", "Bearer mulm_sk_"):
            reply = api.call(method, filled(path), headers={"authorization": header})
            if path in OPEN_PATHS:
                assert reply.status_code in (200, 304, 405, 503), (method, path)
            else:
                assert reply.status_code == 401, (method, path)
    assert rows(api) == [], "nobody has asked for anything"


def test_every_route_that_changes_something_leaves_a_row_and_no_other_does(api, ledger):
    api.app.state.control  # noqa: B018 - there is one
    n_before = 0
    for method, path in routes_of(api.app):
        url = filled(path)
        if path in OPEN_PATHS or method in ("TRACE", "PROPFIND") or "stream" in path:
            continue
        key = WEAK_KEY if method in READING else KEY  # streams would not end
        status = api.call(method, url, key=key, json={}).status_code
        found = ledger.audit(limit=1000)
        is_noted = len(found) > n_before
        n_before = len(found)
        assert is_noted == is_change({"type": "http", "method": method, "path": url}), (method, url)
        if is_noted:
            assert found[0].outcome == str(status)
            assert (found[0].who, found[0].method) == ("key_1", method)
        if method not in READING and path.startswith("/api/"):
            assert is_noted
    assert n_before > 30


def test_rows_say_who_did_what_and_how_it_ended(api, ledger, versions):
    made = api.call("POST", "/api/v1/keys", json={"name": "x"})
    key_id = made.json()["id"]
    api.call("PUT", "/api/v1/models/tiny/aliases/live", json={"version": 1})
    api.call("PUT", "/api/v1/models/tiny/aliases/live", json={"version": 9})
    api.call("DELETE", f"/api/v1/keys/{key_id}")
    api.call("POST", "/api/v1/keys", key=WEAK_KEY, json={"name": "mine"})
    alias = "/api/v1/models/tiny/aliases/live"
    assert rows(api) == [
        ("key_2", "POST", "/api/v1/keys", "/api/v1/keys", "403"),
        ("key_1", "DELETE", "/api/v1/keys/{key_id}", f"/api/v1/keys/{key_id}", "204"),
        ("key_1", "PUT", "/api/v1/{kinds}/{name}/aliases/{alias}", alias, "404"),
        ("key_1", "PUT", "/api/v1/{kinds}/{name}/aliases/{alias}", alias, "200"),
        ("key_1", "POST", "/api/v1/keys", f"/api/v1/keys/{key_id}", "201"),
    ]
    assert rows(api, who="key_2") == rows(api)[:1]
    assert ledger.audit()[-1].request_id == made.headers["x-request-id"]
    assert made.json()["key"] not in api.call("GET", ROOT).text


def test_the_log_is_read_in_pages_and_by_nobody_else(api):
    for number in range(5):
        api.call("PATCH", f"/api/v1/keys/key_{number}", json={})
    first = api.get(f"{ROOT}?limit=3")
    rest = api.get(f"{ROOT}?limit=3&after={first['last_id']}")
    subjects = [row["subject"][-1] for row in first["data"] + rest["data"]]
    assert (subjects, first["has_more"], rest["has_more"]) == (list("43210"), True, False)
    api.refused("GET", ROOT, 403, key=WEAK_KEY)
    assert api.refused("GET", f"{ROOT}?after=run_1", 404)["param"] == "after"
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert api.call(method, ROOT).status_code == 405, "nobody changes it over HTTP"


def test_a_change_whose_note_is_lost_is_not_acknowledged(api, ledger, monkeypatch, caplog):
    def lose(*_):
        raise NotRunningError("gone")

    monkeypatch.setattr(ledger, "add_audit", lose)
    problem = api.refused("POST", "/api/v1/keys", 503, json={"name": "x"})
    assert problem["code"] == "not_running"
    assert "may have been made" in problem["detail"]
    assert "a change was not noted" in caplog.text


def test_a_client_that_leaves_is_noted_too(api, ledger, monkeypatch):
    begun, may_end = threading.Event(), threading.Event()
    change = ledger.change_key

    def slowly(*keys):
        begun.set()
        may_end.wait(10)
        change(*keys)

    monkeypatch.setattr(ledger, "change_key", slowly)

    async def leave():
        transport = httpx2.ASGITransport(app=api.app)
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://test", headers=headers
        ) as client:
            work = asyncio.create_task(client.patch("/api/v1/keys/key_2", json={"name": "n"}))
            await asyncio.to_thread(begun.wait, 10)
            work.cancel()
            may_end.set()
            await asyncio.gather(work, return_exceptions=True)

    asyncio.run(leave())
    [row] = ledger.audit()
    assert (row.subject, row.outcome) == ("/api/v1/keys/key_2", "left")
    assert ledger.key("key_2").name == "n", "it was done all the same"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/completions", False),
        ("POST", "/v1/responses", False),
        ("POST", "/v1/files", True),
        ("DELETE", "/v1/files/x", True),
        ("POST", "/v1/filesystem", False),
        ("POST", "/api/v1/runs", True),
        ("POST", "/api", True),
        ("GET", "/api/v1/runs", False),
    ],
)
def test_what_is_a_change(method, path, expected):
    assert is_change({"type": "http", "method": method, "path": path}) == expected
