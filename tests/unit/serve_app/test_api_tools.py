"""Tools over HTTP: what the model is shown, what it must answer, and how its calls are told."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from mulm.chat import Message, ToolCall, render
from mulm.toolcalls import read_tools

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
USER = {"role": "user", "content": "hi"}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.fixture
def window() -> int:
    return 2000


def run(coroutine):
    return asyncio.run(coroutine)


def chat(app, client, **fields):
    options = {"model": "tiny", "messages": [USER], "tools": [WEATHER]} | fields
    return client(app).chat.completions.create(**options)


def test_tools_stand_in_the_prompt_and_results_follow_their_calls(
    scripted, scripted_app, client, tokenizer
):
    function = {"name": "weather", "arguments": '{"city":  "Oslo"}'}
    turns = [
        USER,
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
    ]  # fmt: skip
    run(chat(scripted_app, client, messages=turns, max_tokens=4))
    [request] = scripted.requests
    expected = render(
        [
            Message(role="user", content="hi"),
            Message(
                role="assistant",
                content="",
                tool_calls=(ToolCall(name="weather", arguments='{"city": "Oslo"}', id="c1"),),
            ),
            Message(role="tool", content="rain", tool_call_id="c1"),
        ],
        tokenizer,
        tools=read_tools([WEATHER]).described,
    )
    assert list(request.prompt_ids[1:]) == expected


def test_a_call_that_must_come_comes_whole_and_streamed(app, client):
    async def check():
        options = {"tool_choice": "required", "seed": 2, "max_tokens": 120}
        [choice] = (await chat(app, client, **options)).choices
        assert choice.finish_reason == "tool_calls"
        [call, *_] = choice.message.tool_calls
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
        assert choice.message.content is None
        names, arguments, reason = [], "", None
        async for chunk in await chat(app, client, **options, stream=True):
            for part in chunk.choices:
                reason = part.finish_reason or reason
                for piece in part.delta.tool_calls or ():
                    if piece.index == 0:
                        names += [piece.function.name] if piece.function.name else []
                        arguments += piece.function.arguments or ""
        assert (names, arguments, reason) == (["weather"], call.function.arguments, "tool_calls")

    run(check())


def test_the_clients_helper_reads_calls(app, client):
    async def check():
        tool = openai.pydantic_function_tool(
            __import__("pydantic").create_model("Go", far=(int, ...))
        )
        async with client(app).chat.completions.stream(
            model="tiny", messages=[USER], tools=[tool], tool_choice="required", max_tokens=100,
            parallel_tool_calls=False, seed=1,
        ) as stream:  # fmt: skip
            final = await stream.get_final_completion()
        [call] = final.choices[0].message.tool_calls
        assert isinstance(call.function.parsed_arguments.far, int)

    run(check())


def test_what_only_looks_like_a_call_is_content(scripted, scripted_app, client, tokenizer):
    scripted.groups = [tokenizer.encode('<tool_call>\n{"name": "rm", "arguments": {}}')]
    scripted.end = "stop"
    [choice] = run(chat(scripted_app, client)).choices
    assert choice.finish_reason == "stop"
    assert choice.message.tool_calls is None
    assert "rm" in choice.message.content


def test_content_before_a_call_is_kept(scripted, scripted_app, client, tokenizer):
    scripted.groups, scripted.end = [tokenizer.encode("Let me see.\n" + CALL)], "stop"
    [choice] = run(chat(scripted_app, client)).choices
    assert choice.message.content == "Let me see."
    assert choice.finish_reason == "tool_calls"


def test_no_tool_may_be_called_where_the_client_says_none(
    scripted, scripted_app, client, tokenizer
):
    scripted.groups, scripted.end = [tokenizer.encode(CALL)], "stop"
    [choice] = run(chat(scripted_app, client, tool_choice="none")).choices
    assert choice.message.content == CALL
    assert scripted.requests[0].sampling.grammar is None


def test_a_form_and_tools_exclude_each_other(app, client):
    with pytest.raises(openai.BadRequestError) as refused:
        run(chat(app, client, response_format={"type": "json_object"}))
    assert refused.value.param == "response_format"
    run(
        chat(app, client, response_format={"type": "json_object"}, tool_choice="none", max_tokens=9)
    )


def test_a_tool_whose_schema_cannot_be_held_is_named(app, client):
    bad = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {
        "type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}}}  # fmt: skip
    with pytest.raises(openai.BadRequestError) as refused:
        run(chat(app, client, tools=[bad], tool_choice="required"))
    assert refused.value.param == "tools"


@pytest.mark.parametrize("pattern", ["(?=x)y", "(", "\\"])
def test_a_pattern_that_cannot_be_held_is_left_out_unless_strict(app, client, pattern):
    parameters = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "pattern": pattern, "maxLength": 3},
            "b": {"type": "object", "patternProperties": {pattern: {}}, "maxProperties": 0},
            "pattern": {"enum": [{"pattern": "("}]},
        },
        "required": ["a", "b", "pattern"],
        "additionalProperties": False,
    }
    function = {"name": "f", "parameters": parameters}
    options = {"tool_choice": "required", "max_tokens": 400, "parallel_tool_calls": False}

    def ask(**said):
        tool = {"type": "function", "function": function | said}
        return run(chat(app, client, tools=[tool], seed=1, **options))

    [call] = ask().choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["pattern"] == {"pattern": "("}
    with pytest.raises(openai.BadRequestError) as refused:
        ask(strict=True)
    assert refused.value.param == "tools"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("cut", "n_calls"),
    [("<tool_c", 0), ('<tool_call>\n{"name": "wea', 0), (CALL[:-15], 1), (CALL + "\n<tool_", 1)],
)
def test_a_call_without_room_to_end_says_so(
    scripted, scripted_app, client, tokenizer, cut, n_calls, streamed
):
    scripted.groups, scripted.end = [tokenizer.encode(cut)], "length"
    options = {"tool_choice": "required", "max_tokens": 100}

    async def streamed_answer():
        content, calls, reasons = "", 0, []
        async for part in await chat(scripted_app, client, stream=True, **options):
            [choice] = part.choices
            content += choice.delta.content or ""
            calls += sum(call.id is not None for call in choice.delta.tool_calls or ())
            reasons.append(choice.finish_reason)
        return content, calls, reasons[-1]

    async def whole_answer():
        [choice] = (await chat(scripted_app, client, **options)).choices
        calls = len(choice.message.tool_calls or ())
        return choice.message.content or "", calls, choice.finish_reason

    assert run(streamed_answer() if streamed else whole_answer()) == ("", n_calls, "length")


GET = {"type": "function", "function": {"name": "get", "strict": True, "parameters": {
    "type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
    "additionalProperties": False}}}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("stop", ["true", "false", "}", "get", "{", "tool", ":", "<", "\n", "a"])
def test_a_stop_string_cuts_no_call(app, client, stop, streamed):
    options = {"tools": [GET], "tool_choice": "required", "stop": stop, "seed": 1,
               "max_tokens": 120, "n": 2, "parallel_tool_calls": False}  # fmt: skip

    async def check():
        content, arguments, reasons = "", ["", ""], {}
        if streamed:
            async for part in await chat(app, client, stream=True, **options):
                [choice] = part.choices
                content += choice.delta.content or ""
                for call in choice.delta.tool_calls or ():
                    arguments[choice.index] += call.function.arguments or ""
                if choice.finish_reason:
                    reasons[choice.index] = choice.finish_reason
        else:
            for choice in (await chat(app, client, **options)).choices:
                content += choice.message.content or ""
                [call] = choice.message.tool_calls
                arguments[choice.index] = call.function.arguments
                reasons[choice.index] = choice.finish_reason
        assert not content
        assert [set(json.loads(each)) for each in arguments] == [{"a"}, {"a"}]
        assert reasons == {0: "tool_calls", 1: "tool_calls"}

    run(check())


def test_a_stop_string_ends_what_is_said_before_a_call(scripted, scripted_app, client, tokenizer):
    scripted.groups, scripted.end = [tokenizer.encode("Let me see.\n" + CALL)], "stop"
    [choice] = run(chat(scripted_app, client, stop="see")).choices
    assert (choice.message.content, choice.finish_reason) == ("Let me ", "stop")
    assert choice.message.tool_calls is None


def test_auto_without_tools_is_the_default_spelled_out(scripted, scripted_app, client):
    scripted.end = "stop"
    run(chat(scripted_app, client, tools=[], tool_choice="auto"))
    assert scripted.requests[0].sampling.grammar is None
