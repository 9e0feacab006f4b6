"""What fits no route is told what it may have meant: paths, methods, queries and keys of bodies."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from serve_app.service import Fixed
from tests.unit.serve_app.control_api.conftest import KEY, WEAK_KEY

V1 = "/api/v1"


@pytest.mark.parametrize(
    ("path", "param", "hint"),
    [
        (f"{V1}/runs?limt=5", "limt", "did you mean 'limit'?"),
        (f"{V1}/runs?limit=5&limit=6&Phase=failed", "Phase", "did you mean 'phase'?"),
        (f"{V1}/usage?from_=1", "from_", "did you mean 'from'?"),
        (f"{V1}/events?afer=1", "afer", "did you mean 'after'?"),
        (f"{V1}/runs/run_1/events?kinds=x", "kinds", "did you mean 'kind'?"),
        (f"{V1}/runs/run_1/compare?with=a&wth=b", "wth", "did you mean 'with'?"),
        (f"{V1}/models?x=", "x", "known: after, limit, name"),
        (f"{V1}/cluster?limit=5", "limit", "this route takes no query"),
        (f"{V1}/runs?{'x' * 999}=1", "x" * 64, "known: after, kind, limit, phase"),
    ],
)
def test_an_unknown_parameter_of_a_query_is_refused_with_the_nearest_one(api, path, param, hint):
    for headers in ({}, {"accept": "text/event-stream"}):
        told = api.refused("GET", path, 400, headers=headers)
        assert (told["code"], told["param"]) == ("unknown_parameter", param)
        assert (told["detail"], told["hint"]) == (f"{param!r} is unknown here", hint)


@pytest.mark.parametrize("path", [f"{V1}/runs?limit=5&limit=6", "/v1/files?limit=5&limit=6"])
def test_a_parameter_given_twice_is_refused(api, path):
    told = api.call("GET", path).json()
    told = told.get("error", told)
    assert (told["code"], told["param"]) == ("config_invalid", "limit")
    assert "given 2 times" in (told.get("detail") or told["message"])


def test_what_takes_several_may_be_given_several_times(api):
    told = api.refused("GET", f"{V1}/runs/run_1/compare?with=run_2&with=run_3", 404)
    assert told["code"] == "not_found"
    assert api.call("GET", "/v1/files?api-version=1&api-version=2").status_code == 200


def test_what_changes_something_takes_no_unknown_query_either(api, ledger):
    path = f"{V1}/keys/key_2"
    assert api.refused("DELETE", f"{path}?dry_run=1", 400)["param"] == "dry_run"
    assert ledger.key("key_2").name == "friend"
    headers = {"idempotency-key": "a"}
    body = {"name": "x"}
    assert api.call("POST", f"{V1}/keys", json=body, headers=headers).status_code == 201


def test_every_declared_parameter_is_known(api):
    """By the description of the API, not by our own table."""
    n = 0
    for path, operations in api.get("/openapi.json")["paths"].items():
        for method, operation in operations.items():
            for field in operation.get("parameters", ()):
                if field["in"] == "query":
                    url = re.sub(r"\{\w+\}", "x", path.replace("{kinds}", "models"))
                    reply = api.call(method.upper(), url, params={field["name"]: "1"})
                    assert "unknown_parameter" not in reply.text, (path, field)
                    n += 1
    assert n > 50


@pytest.mark.parametrize(
    ("path", "is_refused"),
    [
        ("/v1/files?limt=5", True),
        ("/v1/fine_tuning/jobs?metadata[a]=b", True),
        ("/v1/files?limit=5&api-version=2024-10-21", False),
        ("/v1/models?api-version=preview", False),
        ("/v1/models?whatever=1", False),
    ],
)
def test_openais_lists_are_strict_and_what_takes_no_query_ignores_one(api, path, is_refused):
    reply = api.call("GET", path)
    assert reply.status_code == (400 if is_refused else 200), reply.text
    if is_refused:
        error = reply.json()["error"]
        assert error["code"] == "unknown_parameter"
        assert "is unknown here (" in error["message"]


def test_azures_client_has_a_model_answer(api, served, scripted, client):
    api.app.state.service.deployments = {"tiny": Fixed(served)}
    ours = client(api.app, KEY)

    async def ask() -> Any:
        return await ours.completions.create(
            model="tiny", prompt="hi", max_tokens=1, extra_query={"api-version": "2024-10-21"}
        )

    assert asyncio.run(ask()).choices


@pytest.mark.parametrize(
    ("method", "path", "body", "param", "hint"),
    [
        ("POST", "keys", {"nam": "x"}, "nam", "did you mean 'name'?"),
        (
            "POST", "keys", {"name": "x", "limits": {"requests_per_minut": 1}},
            "limits.requests_per_minut", "did you mean 'requests_per_minute'?",
        ),
        ("PATCH", "keys/key_2", {"limit": {}}, "limit", "did you mean 'limits'?"),
        (
            "PATCH", "keys/key_2", {"limits": {"token_qouta": 1}},
            "limits.token_qouta", "did you mean 'token_quota'?",
        ),
        ("POST", "evaluations", {"model": "a", "suite": []}, "suite", "did you mean 'suites'?"),
        ("POST", "runs", {"kind": "train", "conf": {}}, "conf", "did you mean 'config'?"),
        ("POST", "runs/run_1/resume", {"st": []}, "st", "did you mean 'set'?"),
        (
            "POST", "deployments/x/rollback", {"zz": 1},
            "zz", "known: revision",
        ),
    ],
)  # fmt: skip
def test_an_unknown_key_of_a_body_is_refused_with_the_nearest_one(
    api, method, path, body, param, hint
):
    told = api.refused(method, f"{V1}/{path}", 400, json=body)
    assert (told["code"], told["param"], told["hint"]) == ("unknown_parameter", param, hint)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        (f"{V1}/run", f"{V1}/runs"),
        (f"{V1}/runs/", f"{V1}/runs"),
        (f"{V1}/runs/run_1/event", f"{V1}/runs/run_1/events"),
        (f"{V1}/model", f"{V1}/models"),
        (f"{V1}/models/tiny/alias/live", f"{V1}/models/tiny/aliases/live"),
        ("/v1/runs", f"{V1}/runs"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        (f"{V1}/chat/completions", "/v1/chat/completions"),
    ],
)
def test_a_path_that_is_not_there_is_told_the_nearest_one(api, path, nearest):
    reply = api.call("GET", path)
    assert reply.status_code == 404
    assert f"did you mean '{nearest}'?" in reply.text
    assert '"not_found"' in reply.text


def test_a_path_like_no_other_is_told_where_all_are(api):
    hint = "GET /openapi.json, with a key, tells all routes"
    for path in (f"{V1}/nonsense", V1, f"{V1}/{'x' * 60_000}"):
        assert api.refused("GET", path, 404)["hint"] == hint
    assert hint in api.call("GET", "/v1/engines/davinci").json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", f"{V1}/keys", "GET, POST"),
        ("POST", f"{V1}/keys/key_2", "DELETE, GET, PATCH"),
        ("PUT", f"{V1}/runs/estimate", "GET, POST"),
        ("POST", f"{V1}/models", "GET"),
        ("GET", "/v1/chat/completions", "POST"),
        ("PATCH", "/v1/files", "GET, POST"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_those_that_are_there(api, method, path, allowed):
    reply = api.call(method, path)
    assert reply.status_code == 405
    assert {*reply.headers["allow"].split(", ")} == {*allowed.split(", ")}
    assert f"this route has no {method}" in reply.text
    if "openapi" not in path:
        assert f"it has {allowed}" in reply.text
    assert '"method_not_allowed"' in reply.text


def test_nobody_without_a_key_learns_which_routes_there_are(api):
    for method, path in (
        ("GET", f"{V1}/run"),
        ("DELETE", f"{V1}/keys"),
        ("GET", f"{V1}/runs?limt=1"),
        ("GET", "/v1/chat/completion"),
    ):
        reply = api.call(method, path, key=WEAK_KEY[:-1])
        assert reply.status_code == 401
        assert "did you mean" not in reply.text
        assert "allow" not in reply.headers


def test_a_name_that_is_long_is_neither_compared_nor_told_whole(api):
    told = api.refused("POST", "/api/v1/feedback", 400, json={"x" * 100_000: 1})
    assert (told["code"], told["param"]) == ("unknown_parameter", "x" * 64)
    assert len(told["detail"]) < 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health"])
def test_watchers_may_ask_for_the_head_alone(api, path):
    assert (
        api.call("HEAD", path, key="none").status_code == api.call("GET", path).status_code == 200
    )
    assert api.call("POST", path).status_code == 405
