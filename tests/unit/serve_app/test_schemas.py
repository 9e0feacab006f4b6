from __future__ import annotations

import asyncio

import pytest
from openai.types import completion_create_params as completions
from openai.types import embedding_create_params as embeddings
from openai.types.chat import completion_create_params as chat
from openai.types.responses import response_create_params as responses
from pydantic import ValidationError

from serve_app.openai_api.chat_schemas import ChatBody
from serve_app.openai_api.embeddings import EmbeddingBody
from serve_app.openai_api.responses_schemas import ResponsesBody
from serve_app.openai_api.schemas import Body, CompletionBody

URLS = {"chat": "/v1/chat/completions", "text": "/v1/completions"}
BODIES = {
    "chat": {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    "text": {"model": "tiny", "prompt": "hi", "max_tokens": 2},
}


def post(app, raw, kind, **fields):
    async def once():
        async with raw(app) as client:
            return await client.post(URLS[kind], json=BODIES[kind] | fields)

    return asyncio.run(once())


@pytest.mark.parametrize(("documented", "body"), [
    (chat.CompletionCreateParamsBase, ChatBody),
    (completions.CompletionCreateParamsBase, CompletionBody),
    (responses.ResponseCreateParamsBase, ResponsesBody),
    (embeddings.EmbeddingCreateParams, EmbeddingBody),
])  # fmt: skip
def test_every_documented_parameter_has_a_rule(documented, body):
    names = set(documented.__annotations__)
    assert names
    assert names <= set(body.model_fields)


def test_what_is_said_of_a_schema_changes_nothing(app, raw):
    def ask(**said):
        schema = {"type": "object", "properties": {"a": {"enum": [1, 2, 3]}}, "required": ["a"]}
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema} | said}
        reply = post(app, raw, "chat", response_format=form, seed=1, max_tokens=20)
        return reply.json()["choices"]

    plain = ask()
    for said in ({"name": "b"}, {"description": "c"}, {"strict": True}, {"strict": False}):
        assert ask(**said) == plain


def bodies(schema=Body):
    """All of them, and what they are made of."""
    found = [schema] if schema is not Body else []
    return found + [body for child in schema.__subclasses__() for body in bodies(child)]


BY_TYPE = {"string": "1", "integer": 1, "number": 0.5, "boolean": True, "array": [], "object": {}}


def kinds(schema):
    """What JSON types a field may have; none where it is looked at elsewhere."""
    found = {each.get("type") for each in schema.get("anyOf", [schema])}
    return found if all(isinstance(kind, str) for kind in found) else set()


def wrong_values():
    for body in bodies():
        for name, schema in body.model_json_schema()["properties"].items():
            may_be = kinds(schema)
            for kind in BY_TYPE if may_be else ():
                if kind not in may_be and not (kind == "integer" and "number" in may_be):
                    yield body, name, BY_TYPE[kind]
            if "boolean" in may_be:
                yield body, name, 0
            if may_be & {"integer", "number"} and "string" not in may_be:
                yield body, name, False
            if "integer" in may_be and "number" not in may_be:
                yield body, name, 1.0


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        pytest.param(*each, id=f"{each[0].__name__}-{each[1]}-{each[2]!r}")
        for each in wrong_values()
    ],
)
def test_no_value_of_another_type_is_taken(body, name, value):
    with pytest.raises(ValidationError) as refused:
        body.model_validate({name: value})
    assert name in [error["loc"][0] for error in refused.value.errors() if error["loc"]]


@pytest.mark.parametrize(("kind", "fields", "words"), [
    ("chat", {"response_format": {"type": "json_schema"}},
     "response_format.json_schema: is required"),
    ("chat", {"response_format": {"type": "text", "json_schema": {"name": "a"}}},
     "response_format.json_schema: belongs to the type json_schema"),
    ("text", {"prompt": "hi " * 300, "truncate_prompt_tokens": 200}, "(lower truncate_prompt"),
    ("text", {"prompt": "hi " * 300}, "(set truncate_prompt_tokens"),
    ("text", {"min_tokens": 3}, "min_tokens is 3, more than the 2 that may come (lower it, or"),
    ("chat", {"tools": [{"type": "a"}]}, "tools.0 is no function"),
])  # fmt: skip
def test_it_is_said_what_is_wrong(app, raw, kind, fields, words):
    assert words in post(app, raw, kind, **fields).json()["error"]["message"]


@pytest.mark.parametrize("key", ["1.0", " 1", "+1", "01", "1_0", "٣", "-1", "1" * 5000])
def test_a_token_id_has_one_way_to_be_a_key(app, raw, key):
    reply = post(app, raw, "chat", logit_bias={key: 1})
    assert reply.json()["error"]["param"].startswith("logit_bias")
    assert reply.json()["error"]["code"] == "invalid_value"


NEUTRAL = {
    "both": {
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "n": 1, "stop": None,
        "user": "me", "stream": False, "seed": None, "temperature": 1, "top_p": 1, "top_k": 0,
        "stream_options": None,
    },
    "chat": {
        "logprobs": False, "top_logprobs": 0, "metadata": {"a": "b"}, "store": False, "tools": [],
        "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"],
        "service_tier": "auto", "parallel_tool_calls": True, "verbosity": "medium",
    },
    "text": {"echo": False, "best_of": 1, "logprobs": None, "suffix": ""},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_neutral_values_are_accepted(app, raw, kind):
    for name, value in (NEUTRAL["both"] | NEUTRAL[kind]).items():
        assert post(app, raw, kind, **{name: value}).status_code == 200, name


REFUSED = [
    ("both", {"frequency_penalty": 2.1}, "frequency_penalty", "invalid_value"),
    ("both", {"presence_penalty": -3}, "presence_penalty", "invalid_value"),
    ("both", {"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    ("both", {"min_p": 1.5}, "min_p", "invalid_value"),
    ("both", {"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
    ("both", {"logit_bias": {"five": 1}}, "logit_bias.five", "invalid_value"),
    ("both", {"logit_bias": {"320": 1}}, "logit_bias", "config_invalid"),
    ("both", {"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias", "invalid_value"),
    ("both", {"stop_token_ids": [400]}, "stop_token_ids", "config_invalid"),
    ("both", {"min_tokens": 3}, "min_tokens", "config_invalid"),
    ("both", {"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value"),
    ("both", {"structured_outputs": {}}, "structured_outputs", "invalid_value"),
    ("both", {"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs",
     "invalid_value"),
    ("both", {"structured_outputs": {"regex": "("}}, "structured_outputs", "config_invalid"),
    ("both", {"temprature": 1}, "temprature", "unknown_parameter"),
    ("both", {"temperature": 2.5}, "temperature", "invalid_value"),
    ("both", {"temperature": -0.1}, "temperature", "invalid_value"),
    ("both", {"top_p": 0}, "top_p", "invalid_value"),
    ("both", {"max_tokens": -1}, "max_tokens", "invalid_value"),
    ("chat", {"max_tokens": 0}, "max_tokens", "invalid_value"),
    ("both", {"n": 17}, "n", "invalid_value"),
    ("both", {"n": 0}, "n", "invalid_value"),
    ("both", {"seed": 2**63}, "seed", "invalid_value"),
    ("both", {"stop": ""}, "stop", "invalid_value"),
    ("both", {"stop": list("abcde")}, "stop", "invalid_value"),
    ("both", {"model": 3}, "model", "invalid_value"),
    ("both", {"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ("chat", {"logprobs": 3}, "logprobs", "invalid_value"),
    ("chat", {"top_logprobs": 3}, "top_logprobs", "invalid_value"),
    ("chat", {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ("chat", {"tools": [{"type": "function"}]}, "tools", "config_invalid"),
    ("chat", {"tools": [{"type": "web_search"}]}, "tools", "config_invalid"),
    ("chat", {"tool_choice": "required"}, "tool_choice", "config_invalid"),
    ("chat", {"store": True}, "store", "unsupported_parameter"),
    ("chat", {"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ("chat", {"response_format": {"type": "json_schema"}}, "response_format.json_schema",
     "invalid_value"),
    ("chat", {"response_format": {"type": "json_schema", "json_schema":
     {"name": "a", "schema": {"type": "nonsense"}}}}, "response_format", "config_invalid"),
    ("chat", {"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id",
     "invalid_value"),
    ("chat", {"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages",
     "config_invalid"),
    ("chat", {"messages": []}, "messages", "invalid_value"),
    ("chat", {"messages": "hi"}, "messages", "invalid_value"),
    ("chat", {"messages": [{"role": "user"}]}, "messages.0.content", "invalid_value"),
    ("chat", {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role",
     "invalid_value"),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
     "messages.0.content.0.type", "unsupported_parameter"),
    ("chat", {"messages": [{"role": "user", "content": "x", "nam": "y"}]}, "messages.0.nam",
     "unknown_parameter"),
    ("chat", {"max_completion_tokens": 3}, "max_tokens", "invalid_value"),
    ("text", {"logprobs": 21}, "logprobs", "invalid_value"),
    ("text", {"logprobs": True}, "logprobs", "invalid_value"),
    ("text", {"best_of": 2, "n": 3}, "best_of", "invalid_value"),
    ("text", {"best_of": 2, "stream": True}, "best_of", "invalid_value"),
    ("text", {"suffix": "end"}, "suffix", "unsupported_parameter"),
    ("text", {"prompt": []}, "prompt", "invalid_value"),
    ("text", {"prompt": [[]]}, "prompt.0", "invalid_value"),
    ("text", {"prompt": ["a"] * 65}, "prompt", "config_invalid"),
    ("text", {"prompt": ["a"] * 9, "n": 8}, "n", "config_invalid"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "fields", "param", "code"), REFUSED)
def test_what_is_not_supported_is_refused_by_name(app, raw, where, fields, param, code):
    for kind in ["chat", "text"] if where == "both" else [where]:
        reply = post(app, raw, kind, **fields)
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert (error["param"], error["code"]) == (param, code), error
        assert error["type"] == "invalid_request_error"


def test_an_unknown_parameter_names_the_nearest(app, raw):
    assert "did you mean 'temperature'?" in post(app, raw, "chat", temprature=1).text


def test_text_parts_are_one_text(app, raw):
    parts = [{"type": "text", "text": "a fox"}, {"type": "text", "text": " ran"}]
    split = post(app, raw, "chat", messages=[{"role": "user", "content": parts}], seed=1)
    whole = post(app, raw, "chat", messages=[{"role": "user", "content": "a fox ran"}], seed=1)
    assert split.json()["choices"] == whole.json()["choices"]


def test_a_developer_speaks_as_the_system(app, raw):
    def ask(role):
        messages = [{"role": role, "content": "be kind"}, {"role": "user", "content": "hi"}]
        return post(app, raw, "chat", messages=messages, seed=1).json()["choices"]

    assert ask("developer") == ask("system")
