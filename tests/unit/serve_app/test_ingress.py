from __future__ import annotations

import asyncio
import dataclasses
import json
import subprocess
import sys

import pytest
from starlette.routing import BaseRoute

from mulm.chat import Message, render
from mulm.errors import (
    ContextLengthError,
    MulmError,
    NotRunningError,
    OverloadedError,
    error_classes,
)
from mulm.testing import tiny_llama3_tokenizer
from serve_app.auth import OPEN_PATHS
from serve_app.ingress import make_app
from serve_app.service import Fixed, Service
from serve_app.settings import MAX_BODY_BYTES
from serve_app.ui.files import PATHS

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
URL = "/v1/chat/completions"


def call(app, raw, method, path, **options):
    async def once():
        async with raw(app) as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def error_of(reply) -> dict:
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert reply.headers["x-request-id"].startswith("req_")
    return body["error"]


def routes_of(app) -> list[tuple[str, str]]:
    def walk(routes: list[BaseRoute]):
        for route in routes:
            inner = getattr(route, "original_router", None)
            if inner is not None:
                yield from walk(inner.routes)
            elif hasattr(route, "methods"):
                for method in route.methods:
                    yield method, route.path.replace("{name}", "tiny")

    return sorted(set(walk(app.routes)))


def test_every_route_but_health_and_the_page_needs_a_key(scripted_app, raw):
    assert {"/healthz", "/readyz", "/health"} == OPEN_PATHS - PATHS
    of_the_page = [("GET", path) for path in PATHS]
    found = [*of_the_page, *routes_of(scripted_app)]
    assert {path for _, path in found} >= {*OPEN_PATHS, "/v1/models", "/v1/models/tiny", URL}
    unknown = ("/no/such", "/docs", "/openapi.json", "/ui", "/ui/", "/ui/other.js", "/index.html")
    for method, path in [*found, *(("GET", path) for path in unknown)]:
        for header in ("", "Bearer ", "Bearer wrong", "Basic x", "wrong"):
            reply = call(scripted_app, raw, method, path, headers={"authorization": header})
            if path in OPEN_PATHS:
                assert reply.status_code == 200
            else:
                assert reply.status_code == 401, (method, path)
                assert reply.headers["www-authenticate"] == "Bearer"
                if path.startswith("/api/"):
                    assert reply.json()["code"] == "unauthorized"
                elif method != "HEAD":
                    assert error_of(reply)["code"] == "invalid_api_key"
                    assert "Bearer ..." not in error_of(reply)["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v1/nothing", 404, "not_found"), ("GET", URL, 405, "method_not_allowed")],
)
def test_unknown_routes_and_methods(scripted_app, raw, method, path, status, code):
    reply = call(scripted_app, raw, method, path)
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)


def test_a_body_that_is_too_large_is_refused(scripted_app, raw):
    reply = call(scripted_app, raw, "POST", URL, content=b"x" * (MAX_BODY_BYTES + 1))
    assert (reply.status_code, error_of(reply)["code"]) == (413, "request_too_large")


def test_a_body_that_lies_about_its_length_is_refused(scripted_app, raw):
    async def pieces():
        for _ in range(MAX_BODY_BYTES // 65536 + 1):
            yield b"x" * 65536

    reply = call(scripted_app, raw, "POST", URL, content=pieces())
    assert reply.status_code == 413


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"null", b"\xff", b'"text"'])
def test_a_body_that_is_no_object_is_refused(scripted_app, raw, body):
    headers = {"content-type": "application/json"}
    reply = call(scripted_app, raw, "POST", URL, content=body, headers=headers)
    assert reply.status_code == 400
    error_of(reply)


def test_an_object_without_its_content_type_is_refused_with_the_remedy(scripted_app, raw):
    reply = call(scripted_app, raw, "POST", URL, content=b"{}")
    assert (reply.status_code, error_of(reply)["code"]) == (400, "invalid_json")
    assert "Content-Type: application/json" in error_of(reply)["message"]


@pytest.mark.parametrize("kind", error_classes())
@pytest.mark.parametrize("stream", [False, True])
def test_errors_before_the_first_token_have_a_status(scripted, scripted_app, raw, kind, stream):
    scripted.error = kind("it broke", hint="mend it")
    reply = call(scripted_app, raw, "POST", URL, json=CHAT | {"stream": stream})
    assert reply.status_code >= 400
    assert error_of(reply)["message"] == "it broke (mend it)"
    if reply.status_code == 503:
        assert reply.headers["retry-after"] == "1"


def test_the_statuses_that_clients_act_on(scripted, scripted_app, raw):
    for error, status in [(OverloadedError("x"), 503), (ContextLengthError("x"), 400)]:
        scripted.error = error
        assert call(scripted_app, raw, "POST", URL, json=CHAT).status_code == status


def test_an_unexpected_error_tells_nothing_about_our_insides(scripted, scripted_app, raw, caplog):
    scripted.error = ValueError("secret path /root")
    reply = call(scripted_app, raw, "POST", URL, json=CHAT)
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert error_of(reply)["code"] == "internal"


@pytest.mark.parametrize("error", [MulmError("it broke"), ValueError("secret")])
def test_an_error_after_the_first_token_is_an_event(scripted, scripted_app, raw, error):
    scripted.groups, scripted.end = [[300]], error
    reply = call(scripted_app, raw, "POST", URL, json=CHAT | {"stream": True})
    assert reply.status_code == 200
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert json.loads(events[-1])["error"]["code"] == "internal"
    assert "secret" not in reply.text
    assert "[DONE]" not in reply.text


def test_a_stream_ends_with_done(scripted, scripted_app, raw):
    scripted.groups = [[300]]
    reply = call(scripted_app, raw, "POST", URL, json=CHAT | {"stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")


def test_a_missed_deadline_is_504(scripted, scripted_app, raw):
    scripted.groups, scripted.end = [[300]], "deadline"
    reply = call(scripted_app, raw, "POST", URL, json=CHAT)
    assert (reply.status_code, error_of(reply)["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("groups", [[], [[300]]])
def test_an_engine_that_is_stuck_is_given_up_at_the_deadline(scripted, served, keys, raw, groups):
    scripted.groups, scripted.never_ends = groups, True
    soon = dataclasses.replace(served, request_timeout_s=0.2)
    reply = call(make_app(Service.of(soon), keys), raw, "POST", URL, json=CHAT)
    assert (reply.status_code, error_of(reply)["code"]) == (504, "deadline_exceeded")
    assert scripted.n_closed_early == 1


LONG = [{"role": "user", "content": "the fox " * 200}]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (URL, CHAT | {"max_tokens": 999}, "max_tokens"),
        (URL, CHAT | {"max_completion_tokens": 999}, "max_completion_tokens"),
        (URL, CHAT | {"messages": LONG}, "messages"),
        (URL, CHAT | {"messages": LONG, "max_tokens": 9}, "messages"),
        ("/v1/completions", {"model": "tiny", "prompt": [40] * 200}, "prompt"),
    ],
)
def test_what_does_not_fit_is_blamed_on_what_the_client_sent(scripted_app, raw, path, body, param):
    reply = call(scripted_app, raw, "POST", path, json=body)
    error = error_of(reply)
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)


def test_a_default_takes_no_more_than_is_left(scripted, scripted_app, raw):
    body = {"model": "tiny", "prompt": [40] * 190}
    assert call(scripted_app, raw, "POST", "/v1/completions", json=body).is_success
    assert scripted.requests[0].sampling.max_tokens == 10


def test_the_engine_knows_the_requests_own_id(scripted, scripted_app, raw, caplog):
    with caplog.at_level("INFO", logger="serve_app"):
        reply = call(scripted_app, raw, "POST", URL, json=CHAT)
    request_id = reply.headers["x-request-id"]
    [request] = scripted.requests
    assert request.request_id.startswith(request_id)
    assert f"request={request_id} key=key_1" in caplog.text


def test_a_conversation_begins_as_a_document_did_in_training(
    scripted, scripted_app, raw, tokenizer
):
    call(scripted_app, raw, "POST", URL, json=CHAT)
    [request] = scripted.requests
    turn = [Message(role="user", content="hi")]
    assert request.prompt_ids == (tokenizer.end_of_text_id, *render(turn, tokenizer))


def test_another_chat_format_begins_and_ends_in_its_own_way(scripted, served, keys, raw):
    llama3 = tiny_llama3_tokenizer()
    app = make_app(Service.of(dataclasses.replace(served, tokenizer=llama3)), keys)
    call(app, raw, "POST", URL, json=CHAT)
    call(app, raw, "POST", "/v1/completions", json={"model": "tiny", "prompt": "hi"})
    chat, completion = scripted.requests
    begin, end, eot, eom = (
        llama3.id_of(f"<|{name}|>") for name in ("begin_of_text", "end_of_text", "eot_id", "eom_id")
    )
    assert chat.prompt_ids == (begin, *render([Message(role="user", content="hi")], llama3))
    assert chat.sampling.stop_token_ids == (eot, end, begin, eom)
    assert completion.prompt_ids == (begin, *llama3.encode("hi"))
    assert completion.sampling.stop_token_ids == (end, begin)


def test_readiness_needs_no_more_than_one_question_a_second(scripted, scripted_app, raw):
    async def check():
        async with raw(scripted_app) as client:
            replies = await asyncio.gather(*[client.get("/readyz") for _ in range(20)])
        assert all(reply.is_success for reply in replies)

    asyncio.run(check())
    assert scripted.n_probes == 1


def test_readiness_follows_model_and_engine(scripted, served, keys, raw):
    assert call(make_app(Service.of(served), keys), raw, "GET", "/readyz").is_success
    for path in ("/healthz", "/readyz"):  # requests are answered, though no model is served
        assert call(make_app(Service(), keys), raw, "GET", path).is_success
    scripted.ready = False
    reply = call(make_app(Service.of(served), keys), raw, "GET", "/readyz")
    assert reply.status_code == 503


def test_one_broken_deployment_does_not_take_the_others_off_the_network(served, keys, raw):
    class Broken:
        async def is_ready(self):
            return False

    broken = Fixed(dataclasses.replace(served, name="other", engine=Broken()))
    service = Service({"tiny": Fixed(served), "other": broken})
    assert call(make_app(service, keys), raw, "GET", "/readyz").is_success


def test_where_nothing_is_served_a_client_is_told_so(keys, raw):
    app = make_app(Service(), keys)
    assert call(app, raw, "GET", "/v1/models").json()["data"] == []
    reply = call(app, raw, "POST", URL, json=CHAT)
    assert (reply.status_code, error_of(reply)["code"]) == (404, "model_not_found")
    assert call(app, raw, "GET", "/v1/tokenizer_info").status_code == 503


def test_each_deployment_is_asked_by_its_own_name(scripted, served, keys, raw):
    other = type(scripted)()
    for engine, words in ((scripted, [[5]]), (other, [[6]])):
        engine.groups = words
    second = dataclasses.replace(
        served, name="second", ref="second@1", model_id="mdl_2", engine=other
    )
    app = make_app(Service({"tiny": Fixed(served), "second": Fixed(second)}), keys)
    models = call(app, raw, "GET", "/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["second", "tiny"]
    for name, engine in (("tiny", scripted), ("second", other), ("second@1", other)):
        assert call(app, raw, "POST", URL, json=CHAT | {"model": name}).is_success
        assert len(engine.requests) == 1
        engine.requests.clear()


def test_a_ledger_that_does_not_answer_is_503(scripted, served, raw):
    from serve_app.auth import KeyRing

    def fetch():
        raise NotRunningError("gone")

    reply = call(make_app(Service.of(served), KeyRing(fetch, b"")), raw, "GET", "/v1/models")
    assert reply.status_code == 503


def test_the_ingress_stays_on_the_light_floor():
    code = "import sys, serve_app.ingress; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
