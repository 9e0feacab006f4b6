"""What no client should send: an error of OpenAI's shape, soon, and nothing else disturbed."""

from __future__ import annotations

import asyncio
import json
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.openai_api.chat_schemas import ChatBody
from serve_app.openai_api.embeddings import EmbeddingBody
from serve_app.openai_api.responses_schemas import ResponsesBody
from serve_app.openai_api.schemas import CompletionBody
from serve_app.openai_api.tokens import DetokenizeBody, TokenizeBody
from tests.unit.quick import shortest_async_s

SOON_S = 0.1
ROUTES = {
    "/v1/chat/completions": (ChatBody, {"messages": [{"role": "user", "content": "hi"}]}),
    "/v1/completions": (CompletionBody, {"prompt": "hi"}),
    "/v1/responses": (ResponsesBody, {"input": "hi"}),
    "/v1/embeddings": (EmbeddingBody, {"input": "hi"}),
    "/v1/tokenize": (TokenizeBody, {"prompt": "hi"}),
    "/v1/detokenize": (DetokenizeBody, {"tokens": [40]}),
}
CHAT, TEXT = list(ROUTES)[:2]


async def post(app, raw, url, content: bytes, content_type="application/json"):
    async with raw(app) as client:
        return await client.post(url, content=content, headers={"content-type": content_type})


def body_of(url, **fields) -> bytes:
    return json.dumps({"model": "tiny", "max_tokens": 2} | ROUTES[url][1] | fields).encode()


def require_refusal(reply) -> None:
    assert 400 <= reply.status_code < 500, reply.text[:500]
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert len(reply.content) < 5000


DEEP = b'{"model": "tiny", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
HOSTILE = [
    (TEXT, b"", "application/json"),
    (TEXT, b"null", "application/json"),
    (TEXT, b"[]", "application/json"),
    (TEXT, b"{", "application/json"),
    (TEXT, b"\xff\xfe{}", "application/json"),
    (TEXT, body_of(TEXT), "text/plain"),
    (TEXT, DEEP, "application/json"),
    (TEXT, b'{"model": "tiny", "temperature": NaN}', "application/json"),
    (TEXT, b'{"model": "tiny", "temperature": Infinity}', "application/json"),
    (TEXT, b'{"model": "tiny", "temperature": 1e999}', "application/json"),
    (TEXT, b'{"model": "tiny", "seed": ' + b"9" * 5000 + b"}", "application/json"),
    (TEXT, body_of(TEXT, prompt="x" * (10 << 20)), "application/json"),
    (TEXT, body_of(TEXT, model="m" * (3 << 20)), "application/json"),
    (TEXT, body_of(TEXT, **{"k" * (3 << 20): 1}), "application/json"),
    (CHAT, body_of(CHAT, messages=[{"role": "user", "content": ""}] * 70_000), "application/json"),
    (TEXT, body_of(TEXT, prompt="word " * 500_000), "application/json"),
    (TEXT, body_of(TEXT, prompt=[40] * 1_000_000), "application/json"),
    (TEXT, body_of(TEXT, prompt=["a"] * 500_000), "application/json"),
    (TEXT, body_of(TEXT, prompt=[[1, 2, 3], []]), "application/json"),
    (TEXT, body_of(TEXT, prompt=[1.5]), "application/json"),
    (TEXT, body_of(TEXT, prompt=[True]), "application/json"),
    (TEXT, body_of(TEXT, prompt=[320]), "application/json"),
    (TEXT, body_of(TEXT, prompt=[2**70]), "application/json"),
    (TEXT, body_of(TEXT, stop=["x"] * 100_000), "application/json"),
    (TEXT, body_of(TEXT, stop="x" * 100_000), "application/json"),
    (TEXT, body_of(TEXT, n=1000), "application/json"),
    (TEXT, body_of(TEXT, n=-1), "application/json"),
    (TEXT, body_of(TEXT, max_tokens=10**30), "application/json"),
    (TEXT, body_of(TEXT, max_tokens=-(10**30)), "application/json"),
    (TEXT, body_of(TEXT, top_k=10**20), "application/json"),
    (TEXT, body_of(TEXT, logit_bias={"-1": 1}), "application/json"),
    (TEXT, body_of(TEXT, logit_bias={str(10**30): 1}), "application/json"),
    (TEXT, body_of(TEXT, model="../../etc/passwd\x00"), "application/json"),
    (TEXT, b'{"model": "\\ud800"}', "application/json"),
    (TEXT, body_of(TEXT, structured_outputs={"regex": "\ud800"}), "application/json"),
    (CHAT, body_of(CHAT, messages=[{"role": "user", "content": "{{ 7*7 }}{% for x in y %}"}] * 99),
     "application/json"),
    (CHAT, body_of(CHAT, chat_template="{{ cycler.__init__.__globals__ }}"), "application/json"),
    (CHAT, body_of(CHAT, messages=[{"role": "tool", "content": "x", "tool_call_id": "\x00"}]),
     "application/json"),
]  # fmt: skip
HOSTILE_FORMS = [
    {"regex": "(a+)+$" * 2000},
    {"regex": "(?=a)b"},
    {"choice": ["x" * 50_000]},
    {"choice": [str(n) for n in range(100_000)]},
    {"grammar": "start: start"},
    {"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000},
    {"grammar": 'start: "a" | ' + " | ".join(f"r{n}" for n in range(1000))},
    {"json": {"$ref": "#"}},
    {"json": {"$ref": "http://169.254.169.254/latest/meta-data"}},
    {"json": {"enum": [str(n) for n in range(100_000)]}},
    {"json": "{"},
    {"regex": "a{1000000}"},
    {"regex": "a{100000}b"},
]


@pytest.mark.parametrize(("url", "content", "content_type"), HOSTILE)
def test_hostile_bodies_are_refused_soon(app, raw, url, content, content_type):
    async def refuse():
        require_refusal(await post(app, raw, url, content, content_type))

    # Megabytes of JSON are parsed first, which takes its time on a busy machine.
    soon_s = SOON_S if len(content) < 100_000 else 1.5
    assert shortest_async_s(refuse, soon_s) < soon_s


@pytest.mark.parametrize("form", HOSTILE_FORMS, ids=lambda form: str(form)[:40])
def test_hostile_forms_are_refused_soon(app, raw, form):
    content = json.dumps({"model": "tiny", "prompt": "hi", "structured_outputs": form}).encode()

    async def refuse():
        reply = await post(app, raw, TEXT, content)
        require_refusal(reply)
        assert reply.json()["error"]["param"].startswith("structured_outputs")

    assert shortest_async_s(refuse, 1.0) < 1.0


@pytest.mark.parametrize("form", [
    {"regex": "(((((a{1,100}){1,100}){1,100}){1,100}){1,100})b{%d}"},
    {"json": '{"type": "string", "minLength": %d000000000}'},
])  # fmt: skip
def test_large_forms_that_can_be_held_cost_no_more(app, raw, form):
    [(kind, text)] = form.items()
    numbers = count(1)  # what was compiled once is kept

    async def accept():
        form = {kind: text % next(numbers)}
        content = json.dumps({"model": "tiny", "prompt": "hi", "structured_outputs": form}).encode()
        assert (await post(app, raw, TEXT, content)).status_code == 200

    assert shortest_async_s(accept, 1.0) < 1.0


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "\U0001f600" * 20, "<|im_end|>", "\u202e"])
def test_odd_text_is_text(app, raw, text):
    for url in (CHAT, TEXT):
        fields = (
            {"messages": [{"role": "user", "content": text}]} if url == CHAT else {"prompt": text}
        )
        reply = asyncio.run(post(app, raw, url, body_of(url, **fields)))
        if "\ud800" in text:
            require_refusal(reply)
        else:
            assert reply.status_code == 200


def test_a_running_stream_is_not_disturbed(app, raw):
    async def check():
        alone = await post(app, raw, TEXT, body_of(TEXT, max_tokens=150, seed=1))
        beside = asyncio.create_task(post(app, raw, TEXT, body_of(TEXT, max_tokens=150, seed=1)))
        for url, content, content_type in HOSTILE[:8]:
            await post(app, raw, url, content, content_type)
        assert (await beside).json()["choices"] == alone.json()["choices"]

    asyncio.run(check())


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["user", "auto", "json_object", "function", "tiny", "\x00"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8) | st.sampled_from(["type", "role"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(data=st.data())
@pytest.mark.parametrize("url", ROUTES)
def test_whatever_is_sent_is_answered_or_refused(app, raw, url, data):
    schema, base = ROUTES[url]
    names = sorted(field.alias or name for name, field in schema.model_fields.items())
    fields = data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=4))
    content = json.dumps({"model": "tiny"} | base | fields).encode()
    reply = asyncio.run(post(app, raw, url, content))
    if reply.status_code != 200:
        require_refusal(reply)
