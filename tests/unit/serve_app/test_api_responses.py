"""`/v1/responses` with the official client: whole, streamed, gone on with, and with tools."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from mulm.chat import Message, render
from mulm.errors import NotRunningError
from serve_app.openai_api.response_store import ResponseStore

TOOL = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture
def window() -> int:
    return 2000


def run(coroutine):
    return asyncio.run(coroutine)


def create(app, client, **fields):
    options = {"model": "tiny", "input": "hi", "max_output_tokens": 12} | fields
    return client(app).responses.create(**options, extra_body={"seed": 3})


def test_an_input_is_answered(app, client):
    reply = run(create(app, client, metadata={"a": "b"}))
    assert reply.object == "response"
    assert reply.status in ("completed", "incomplete")
    assert reply.output_text
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    assert reply.metadata == {"a": "b"}
    if reply.status == "incomplete":
        assert reply.incomplete_details.reason == "max_output_tokens"


def test_streamed_equals_whole(app, client):
    async def check():
        whole = await create(app, client)
        events = [event async for event in await create(app, client, stream=True)]
        kinds = [event.type for event in events]
        assert kinds[:5] == [
            "response.created", "response.in_progress", "response.output_item.added",
            "response.content_part.added", "response.output_text.delta",
        ]  # fmt: skip
        assert kinds[-4:] == [
            "response.output_text.done", "response.content_part.done",
            "response.output_item.done", f"response.{whole.status}",
        ]  # fmt: skip
        assert [event.sequence_number for event in events] == list(range(len(events)))
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        assert text == whole.output_text == events[-1].response.output_text
        assert events[-1].response.usage.output_tokens == whole.usage.output_tokens

    run(check())


def test_the_clients_stream_helper_works(app, client):
    async def check():
        async with client(app).responses.stream(
            model="tiny",
            input="hi",
            extra_body={"structured_outputs": {"choice": ["the fox"]}},
        ) as stream:
            async for _event in stream:
                pass
            final = await stream.get_final_response()
        assert final.output_text == "the fox"

    run(check())


def test_a_conversation_goes_on(scripted, scripted_app, client, tokenizer):
    scripted.groups, scripted.end = [tokenizer.encode("the fox")], "stop"

    async def check():
        first = await create(scripted_app, client, instructions="be kind")
        again = await client(scripted_app).responses.retrieve(first.id)
        assert again.output_text == first.output_text == "the fox"
        second = await create(scripted_app, client, input="and?", previous_response_id=first.id)
        assert second.previous_response_id == first.id
        turns = [
            Message(role="user", content="hi"),
            Message(role="assistant", content="the fox"),
            Message(role="user", content="and?"),
        ]
        expected = (tokenizer.end_of_text_id, *render(turns, tokenizer))
        assert scripted.requests[1].prompt_ids == expected, "instructions are of one answer only"
        await client(scripted_app).responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await client(scripted_app).responses.retrieve(first.id)
        await create(scripted_app, client, input="on", previous_response_id=second.id)

    run(check())


def test_what_is_not_stored_is_not_found(app, client):
    async def check():
        reply = await create(app, client, store=False)
        with pytest.raises(openai.NotFoundError) as gone:
            await create(app, client, previous_response_id=reply.id)
        assert gone.value.param == "previous_response_id"

    run(check())


def test_calls_and_their_results(app, client, scripted, scripted_app):
    async def check():
        options = {"tools": [TOOL], "tool_choice": "required", "max_output_tokens": 150}
        reply = await create(app, client, **options)
        call = reply.output[0]
        assert call.type == "function_call"
        assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")
        events = [event async for event in await create(app, client, **options, stream=True)]
        pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"
                  and e.output_index == 0]  # fmt: skip
        assert "".join(pieces) == call.arguments
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        others = [
            {"type": "function_call_output", "call_id": item.call_id, "output": "sun"}
            for item in reply.output[1:]
        ]
        follow = {"tools": [TOOL], "tool_choice": "none", "previous_response_id": reply.id}
        assert (await create(app, client, input=[result, *others], **follow)).output_text
        items = [{"role": "user", "content": "hi"}, *(i.to_dict() for i in reply.output), result]
        await create(scripted_app, client, input=items + others, tools=[TOOL])
        assert scripted.requests[0].prompt_ids

    run(check())


def test_a_form_is_held(app, client):
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    reply = run(create(app, client, text={"format": form}, max_output_tokens=100))
    assert set(json.loads(reply.output_text)) <= {True, False}


def test_log_probabilities_are_told_where_they_are_asked_for(app, client):
    include = ["message.output_text.logprobs"]
    reply = run(create(app, client, include=include, top_logprobs=2))
    part = reply.output[0].content[0]
    assert len(part.logprobs) == reply.usage.output_tokens
    assert len(part.logprobs[0].top_logprobs) == 2


def test_the_oldest_turns_are_left_out_only_where_the_client_says_so(
    scripted, scripted_app, client, tokenizer
):
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"{n} " * 100} for n in range(31)]

    async def check():
        with pytest.raises(openai.BadRequestError) as refused:
            await create(scripted_app, client, input=turns)
        assert refused.value.code == "context_length_exceeded"
        await create(scripted_app, client, input=turns, truncation="auto")
        text = tokenizer.decode(scripted.requests[0].prompt_ids)
        assert "30 30" in text
        assert "0 0 0" not in text.replace("30 ", "")
        assert 1500 < len(scripted.requests[0].prompt_ids) <= 2000 - 12

    run(check())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"include": ["web_search_call.action.sources"]}, "include.0"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(app, client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        run(create(app, client, **fields))
    assert refused.value.param.startswith(param)


def test_the_store_is_bounded_and_knows_whose_is_what():
    store = ResponseStore(max_responses=2, max_bytes=500)
    for number in range(3):
        store.put("key", {"id": f"r{number}"}, [Message(role="user", content="x")])
    with pytest.raises(Exception, match="r0"):
        store.get("key", "r0")
    assert store.get("key", "r2").body == {"id": "r2"}
    with pytest.raises(Exception, match="r2"):
        store.get("another key", "r2")
    store.put("key", {"id": "r3"}, [Message(role="user", content="x" * 1000)])
    with pytest.raises(Exception, match="r3"):
        store.get("key", "r3")
    store.put("key", {"id": "r4"}, [])
    store.delete("key", "r4")
    assert store._n_bytes == 0


def test_an_error_in_a_stream_reaches_the_official_client(
    scripted, scripted_app, client, tokenizer
):
    scripted.groups, scripted.end = [tokenizer.encode("the fox")], NotRunningError("gone")

    async def check():
        stream = await create(scripted_app, client, stream=True)
        seen = [told async for told in stream]
        assert (seen[-1].type, seen[-1].code) == ("error", "not_running")
        assert "gone" in seen[-1].message
        assert [told.sequence_number for told in seen] == list(range(len(seen)))

    run(check())


def test_results_of_tools_go_with_the_call_before_them(scripted, scripted_app, client):
    calls = [
        {"type": "function_call", "call_id": name, "name": "go", "arguments": "{}"}
        for name in ("a", "b")
    ]
    results = [
        {"type": "function_call_output", "call_id": name, "output": "far " * 100}
        for name in ("a", "b")
    ]
    turns = [{"role": "user", "content": "walk " * 500}, *calls, *results]
    run(create(scripted_app, client, input=turns, truncation="auto"))
    assert 300 < len(scripted.requests[0].prompt_ids) < 2000


def test_a_single_turn_that_does_not_fit_is_refused_and_not_left_out(scripted_app, client):
    with pytest.raises(openai.BadRequestError) as refused:
        run(create(scripted_app, client, input="walk " * 2500, truncation="auto"))
    assert refused.value.code == "context_length_exceeded"


def test_half_a_character_that_the_model_spells_in_a_call_is_passed_on_as_it_is_spelled(
    scripted, scripted_app, client, tokenizer
):
    tool = {"type": "function", "name": "go", "parameters": {"type": "object"}}
    text = '<tool_call>{"arguments": {"to": "\\ud800"}, "name": "go"}</tool_call>'
    scripted.groups, scripted.end = [tokenizer.encode(text)], "stop"
    reply = run(create(scripted_app, client, tools=[tool]))
    [call] = reply.output
    assert call.arguments == '{"to": "\\ud800"}'


@pytest.mark.parametrize(("item", "param"), [
    ({"role": "robot", "content": "x"}, "input.0.role"),
    ({"type": "message", "role": "user"}, "input.0.content"),
    ({"type": "function_call", "name": "go"}, "input.0.call_id"),
    ({"type": "function_call_output", "call_id": "a", "output": 3}, "input.0.output"),
    ({"type": "reasoning", "role": "user", "content": "x"}, "input.0.type"),
    ({"type": "function_call", "call_id": "a", "name": "go", "nam": "x"}, "input.0.nam"),
])  # fmt: skip
def test_a_wrong_item_is_named_by_its_place(scripted_app, client, item, param):
    with pytest.raises(openai.BadRequestError) as refused:
        run(create(scripted_app, client, input=[item]))
    assert refused.value.param == param


@pytest.mark.parametrize("truncation", ["auto", "disabled"])
def test_instructions_that_fit_no_window_are_refused(scripted_app, client, truncation):
    asked = {"instructions": "walk " * 9000, "truncation": truncation}
    with pytest.raises(openai.BadRequestError) as refused:
        run(create(scripted_app, client, **asked))
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "instructions")


def asked(app, raw, **fields):
    async def ask():
        async with raw(app) as client:
            return await client.post(
                "/v1/responses", json={"model": "tiny", "input": "hi"} | fields
            )

    return run(ask())


@pytest.mark.parametrize(("fields", "param", "code"), [
    ({"input": [{"role": "bot", "content": "x"}]}, "input.0.role", "invalid_value"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}]},
     "input.0.content.0.type", "unsupported_parameter"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "a"}]}]},
     "input.0.content.0.type", "unsupported_parameter"),
    ({"input": [{"type": "item_reference", "id": "a"}]}, "input.0.type", "unsupported_parameter"),
    ({"input": [{"type": "reasoning", "id": "a", "summary": []}]}, "input.0.type",
     "unsupported_parameter"),
    ({"input": [{"type": "function_call", "call_id": "a", "nam": "b"}]}, "input.0.nam",
     "unknown_parameter"),
    ({"input": [{"type": "function_call_output", "call_id": "a"}]}, "input.0.output",
     "invalid_value"),
    ({"input": [{"type": "function_call_output", "call_id": "a", "output": [
        {"type": "input_image", "image_url": "a"}]}]}, "input.0.output.0.type",
     "unsupported_parameter"),
    ({"input": [7]}, "input.0", "invalid_value"),
    ({"previous_response_id": ""}, "previous_response_id", "invalid_value"),
])  # fmt: skip
def test_what_is_wrong_is_named_as_the_client_wrote_it(scripted_app, raw, fields, param, code):
    error = asked(scripted_app, raw, **fields).json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert "Item" not in error["message"]


@pytest.mark.parametrize("query", ["stream=true", "include=a", "include%5B%5D=a&include%5B%5D=b",
                                   "starting_after=1", "include_obfuscation=true"])  # fmt: skip
def test_a_kept_response_is_told_in_one_way(app, raw, query):
    made = asked(app, raw, max_output_tokens=4).json()["id"]

    async def get(query):
        async with raw(app) as client:
            return await client.get(f"/v1/responses/{made}?{query}")

    reply = run(get(query))
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith(query.split("=")[0].replace("%5B%5D", "[]"))
    for neutral in ("stream=false", "api-version=1"):
        assert run(get(neutral)).json()["id"] == made


def test_logprobs_are_told_where_their_number_is_given(app, raw):
    reply = asked(app, raw, top_logprobs=2, max_output_tokens=4, seed=3).json()
    [part] = reply["output"][0]["content"]
    assert all(len(each["top_logprobs"]) == 2 for each in part["logprobs"])
    assert part["logprobs"]
