"""What no client should send: an error of OpenAI's shape, soon, and nothing else disturbed."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import tracemalloc
from itertools import count

import httpx2
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mulm.chat import Message, render
from serve_app.json_size import MAX_GROUPS, MAX_TEXTS, MAX_VALUES
from serve_app.openai_api.chat_schemas import ChatBody
from serve_app.openai_api.embeddings import EmbeddingBody
from serve_app.openai_api.responses_schemas import ResponsesBody
from serve_app.openai_api.schemas import CompletionBody
from serve_app.openai_api.tokens import DetokenizeBody, TokenizeBody
from serve_app.settings import MAX_BODY_BYTES
from tests.unit.quick import N_TIMES, shortest_async_s, shortest_s
from tests.unit.serve_app.conftest import KEY, listening

SOON_S = 0.1
HELD_UP_S, LAG_S = 0.2, 0.5
"""The event loop's own work for a body just within the limits: some 25 ms of a core, 50 ms where
all of it is fractions in a schema, 100 ms where it is numbers of thousands of digits. Less would
take lower limits, as to parse and check is microseconds a value. Streams wait longer where others
have the core."""

N_ROUNDS, GROWTH_BYTES = 5, 64 << 10
"""Of what is still held at the end of hundreds of requests: 200 bytes each."""

GRAMMAR_S = 1.0
"""The library takes 100 ms to find that a grammar is too large, in a thread of its own and outside
the interpreter's lock; on a busy machine several times that."""

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
TURN = {"role": "user", "content": "a"}
PART = {"type": "text", "text": "a"}
CALL = {"id": "a", "type": "function", "function": {"name": "a"}}
ASKED = {"type": "function_call", "call_id": "a", "name": "a"}


def members(n: int) -> dict[str, int]:
    return {str(number): 1 for number in range(n)}


TOO_MUCH = [
    (TEXT, {"prompt": [4] * (MAX_VALUES + 1)}),
    (TEXT, {"prompt": [1.5] * 700_000}),
    (TEXT, {"prompt": ["\\"] * 400_000}),
    (TEXT, {"prompt": [[1]] * 400_000}),
    (TEXT, {"prompt": [{}] * 900_000}),
    (TEXT, {"structured_outputs": {"json": {"enum": [[[]]] * 300_000}}}),
    (TEXT, members(300_000)),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": [CALL] * 50_000}]}),
    (CHAT, {"messages": [TURN | {"content": [PART] * 90_000}]}),
    (CHAT, {"logit_bias": members(300_000)}),
    (CHAT, {"metadata": members(300_000)}),
    ("/v1/responses", {"input": [TURN] * 70_000}),
    ("/v1/responses", {"include": ["a"] * 500_000}),
    ("/v1/embeddings", {"input": ["a"] * 500_000}),
    ("/v1/detokenize", {"tokens": [40] * 1_000_000}),
]
N_VALUES, N_TEXTS, N_GROUPS = MAX_VALUES - 99, MAX_TEXTS - 99, MAX_GROUPS - 99
JUST_WITHIN = [
    (TEXT, {"prompt": [123456789] * N_VALUES}),
    (TEXT, {"prompt": [1.5] * N_VALUES}),
    (TEXT, {"prompt": [4] * (N_VALUES - 1) + ["x"]}),
    (TEXT, {"prompt": ["a"] * N_TEXTS}),
    (TEXT, {"prompt": [[1]] * N_GROUPS}),
    (TEXT, {"prompt": [int("9" * 4299)] * 950}),
    (TEXT, {"structured_outputs": {"json": {"enum": [1.5] * N_VALUES}}}),
    (TEXT, {"structured_outputs": {"choice": ["a"] * N_TEXTS}}),
    (TEXT, members(N_TEXTS)),
    (TEXT, {"stop": [1] * N_VALUES}),
    (CHAT, {"messages": [TURN] * 4096}),
    (CHAT, {"messages": [TURN] * 4095 + [{}]}),
    (CHAT, {"messages": [TURN | {"content": [PART] * (N_TEXTS // 4)}]}),
    (CHAT, {"messages": [TURN | {"content": [{}] * N_GROUPS}]}),
    (CHAT, {"messages": [TURN | {"content": [PART | members(N_TEXTS)]}]}),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": [CALL] * (N_TEXTS // 8)}]}),
    (CHAT, {"messages": [TURN | {"content": '"' * 2_000_000}]}),
    (CHAT, {"messages": [TURN | {"content": "\U0001f600" * 340_000}]}),
    (CHAT, {"logit_bias": {f"a{n}": 1 for n in range(N_TEXTS)}}),
    (CHAT, {"metadata": members(N_TEXTS)}),
    (CHAT, {"tools": [{}] * N_GROUPS}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": members(N_TEXTS)}}),
    ("/v1/responses", {"input": [ASKED] * 4096}),
    ("/v1/responses", {"input": [ASKED] * 4095 + [{}]}),
    ("/v1/responses", {"include": ["a"] * N_TEXTS}),
    ("/v1/responses", {"metadata": members(N_TEXTS)}),
    ("/v1/responses", {"instructions": "word " * 800_000}),
    ("/v1/responses", {"input": "word " * 800_000, "truncation": "auto"}),
    ("/v1/embeddings", {"input": [4] * N_VALUES}),
    ("/v1/detokenize", {"tokens": [400] * N_VALUES}),
]


def written(url: str, fields: dict) -> tuple[str, bytes, str]:
    """A request, without spaces, so that more fits."""
    body = {"model": "tiny"} | ROUTES[url][1] | fields
    return url, json.dumps(body, separators=(",", ":")).encode(), "application/json"


HOSTILE_FORMS = [
    {"regex": "(a+)+$" * 2000},
    {"regex": "(?=a)b"},
    {"choice": ["x" * 50_000]},
    {"choice": [str(n) for n in range(30_000)]},
    {"grammar": "start: start"},
    {"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000},
    {"grammar": 'start: "a" | ' + " | ".join(f"r{n}" for n in range(1000))},
    {"json": {"$ref": "#"}},
    {"json": {"$ref": "http://169.254.169.254/latest/meta-data"}},
    {"json": {"enum": [str(n) for n in range(30_000)]}},
    {"json": "{"},
    {"regex": "a{1000000}"},
    {"regex": "a{100000}b"},
]


@pytest.mark.parametrize(("url", "content", "content_type"), HOSTILE)
def test_hostile_bodies_are_refused_soon(app, raw, url, content, content_type):
    async def refuse():
        require_refusal(await post(app, raw, url, content, content_type))

    assert shortest_async_s(refuse, SOON_S, time.thread_time) < SOON_S


@pytest.mark.parametrize(("url", "fields"), TOO_MUCH, ids=lambda value: str(value)[:40])
def test_bodies_of_too_many_values_are_refused_unparsed(app, raw, url, fields):
    _, content, content_type = written(url, fields)
    assert len(content) < MAX_BODY_BYTES

    async def refuse():
        reply = await post(app, raw, url, content, content_type)
        require_refusal(reply)
        assert reply.json()["error"]["code"] == "request_too_large"

    assert shortest_async_s(refuse, SOON_S, time.thread_time) < SOON_S


@pytest.mark.parametrize(("url", "fields"), JUST_WITHIN, ids=lambda value: str(value)[:40])
def test_bodies_within_the_limits_hold_up_the_loop_for_moments(app, raw, url, fields):
    _, content, content_type = written(url, fields)
    assert len(content) < MAX_BODY_BYTES

    async def refuse():
        reply = await post(app, raw, url, content, content_type)
        require_refusal(reply)
        assert reply.json()["error"]["code"] != "request_too_large"

    assert shortest_s(lambda: asyncio.run(refuse()), HELD_UP_S, time.thread_time) < HELD_UP_S


@pytest.mark.parametrize("form", HOSTILE_FORMS, ids=lambda form: str(form)[:40])
def test_hostile_forms_are_refused_soon(app, raw, form):
    content = json.dumps({"model": "tiny", "prompt": "hi", "structured_outputs": form}).encode()

    async def refuse():
        reply = await post(app, raw, TEXT, content)
        require_refusal(reply)
        assert reply.json()["error"]["param"].startswith("structured_outputs")

    assert shortest_async_s(refuse, GRAMMAR_S) < GRAMMAR_S


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

    assert shortest_async_s(accept, GRAMMAR_S) < GRAMMAR_S


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


@pytest.mark.parametrize("text", ["{{7*7}}", "{% for x in range(9**9) %}{{ x }}{% endfor %}"])
def test_a_template_in_a_message_is_text(scripted_app, scripted, raw, tokenizer, text):
    scripted.groups = [[40]]
    messages = [{"role": "system", "content": text}, {"role": "user", "content": text}]
    reply = asyncio.run(post(scripted_app, raw, CHAT, body_of(CHAT, messages=messages)))
    assert reply.status_code == 200, reply.text
    [asked] = scripted.requests
    plain = render([Message(role=each["role"], content=text) for each in messages], tokenizer)
    assert list(asked.prompt_ids) == [tokenizer.end_of_text_id, *plain]
    shown = tokenizer.decode(asked.prompt_ids)
    assert shown.count(text) == 2
    assert "49" not in shown


class Lag:
    """How long the event loop works on other things at a stretch, by its thread's own time."""

    STEP_S = 0.001

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def watch(self) -> None:
        while True:
            begun_s = time.thread_time()
            await asyncio.sleep(self.STEP_S)
            self.longest_s = max(self.longest_s, time.thread_time() - begun_s)


def test_running_streams_are_not_disturbed(app):
    hostile = [*HOSTILE, *(written(*each) for each in (*TOO_MUCH, *JUST_WITHIN))]
    options = {"model": "tiny", "prompt": "the fox", "max_tokens": 150, "seed": 1}

    async def check():
        async with (
            listening(app) as address,
            openai.AsyncOpenAI(api_key=KEY, base_url=f"{address}/v1", max_retries=0) as client,
        ):
            whole = await client.completions.create(**options)
            n_streams, are_all_sent = 0, False

            async def stream_on():
                nonlocal n_streams
                while not are_all_sent:
                    parts = await client.completions.create(**options, stream=True)
                    text = "".join([part.choices[0].text async for part in parts])
                    assert text == whole.choices[0].text
                    n_streams += 1

            streams = [asyncio.create_task(stream_on()) for _ in range(2)]
            with httpx2.Client(base_url=address, headers={"authorization": f"Bearer {KEY}"}) as bad:
                for body in hostile:
                    assert await shortest_lag_s(bad, *body) < LAG_S
            are_all_sent = True
            await asyncio.gather(*streams)
            assert n_streams > len(streams)

    asyncio.run(check())


async def shortest_lag_s(bad: httpx2.Client, url: str, content: bytes, content_type: str) -> float:
    """Of the loop while a body is refused, which comes from another thread."""
    found_s: list[float] = []
    while len(found_s) < N_TIMES and (not found_s or min(found_s) >= LAG_S):
        lag = Lag()
        watching = asyncio.create_task(lag.watch())
        headers = {"content-type": content_type}
        require_refusal(await asyncio.to_thread(bad.post, url, content=content, headers=headers))
        watching.cancel()
        found_s.append(lag.longest_s)
    return min(found_s)


@pytest.mark.slow
def test_memory_does_not_grow_with_what_is_refused(app, raw):
    forms = [written(TEXT, {"structured_outputs": form}) for form in HOSTILE_FORMS[:4]]
    large = [written(*each) for each in (*TOO_MUCH, *JUST_WITHIN[::8])]
    hostile = [*HOSTILE, *forms, *large]

    async def send_all():
        async with raw(app) as client:
            for url, content, content_type in hostile:
                headers = {"content-type": content_type}
                require_refusal(await client.post(url, content=content, headers=headers))
        gc.collect()

    async def check() -> int:
        await send_all()  # what is made once and kept
        tracemalloc.start()
        try:
            await send_all()
            before_bytes, _ = tracemalloc.get_traced_memory()
            for _ in range(N_ROUNDS):
                await send_all()
            after_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return after_bytes - before_bytes

    assert len(hostile) * N_ROUNDS >= 300
    assert asyncio.run(check()) < GROWTH_BYTES


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
