"""What a client says about sampling is what the engine is told, and what it does."""

from __future__ import annotations

import asyncio
import json

import pytest

from mulm.messages import Grammar, SamplingParams

TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]


def post(app, raw, url, **fields):
    prompt = {"prompt": "hi"} if url == TEXT else {"messages": MESSAGES}

    async def once():
        async with raw(app) as client:
            return await client.post(url, json={"model": "tiny", "max_tokens": 5} | prompt | fields)

    return asyncio.run(once())


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOLD = [
    ({"temperature": 0.5}, {"temperature": 0.5}),
    ({"top_p": 0.5}, {"top_p": 0.5}),
    ({"top_k": 3}, {"top_k": 3}),
    ({"top_k": -1}, {"top_k": 0}),
    ({"min_p": 0.1}, {"min_p": 0.1}),
    ({"frequency_penalty": -1.5}, {"frequency_penalty": -1.5}),
    ({"presence_penalty": 2}, {"presence_penalty": 2.0}),
    ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
    ({"logit_bias": {"7": -100, "8": 1.5}}, {"logit_bias": ((7, -100.0), (8, 1.5))}),
    ({"seed": -5}, {"seed": -5}),
    ({"stop": "x"}, {"stops": ("x",)}),
    ({"stop": ["x", "yz"]}, {"stops": ("x", "yz")}),
    ({"min_tokens": 2}, {"min_tokens": 2}),
    ({"structured_outputs": {"regex": "a+"}}, {"grammar": Grammar("regex", "a+")}),
    ({"structured_outputs": {"choice": ["a", "b"]}}, {"grammar": Grammar("choice", '["a", "b"]')}),
    ({"structured_outputs": {"grammar": 'start: "a"'}}, {"grammar": Grammar("ebnf", 'start: "a"')}),
    ({"structured_outputs": {"json": SCHEMA}},
     {"grammar": Grammar("json_schema", json.dumps(SCHEMA))}),
    ({"structured_outputs": {"json_object": True}}, {"grammar": Grammar("json_object")}),
]  # fmt: skip


@pytest.mark.parametrize("url", [TEXT, CHAT])
@pytest.mark.parametrize(("fields", "expected"), TOLD)
def test_the_engine_is_told(scripted, scripted_app, raw, url, fields, expected):
    assert post(scripted_app, raw, url, **fields).status_code == 200
    sampling = scripted.requests[0].sampling
    for name, value in expected.items():
        assert getattr(sampling, name) == value
    unsaid = set(SamplingParams.__dataclass_fields__) - set(expected)
    for name in unsaid - {"max_tokens", "stop_token_ids"}:
        assert getattr(sampling, name) == SamplingParams.__dataclass_fields__[name].default


def test_what_ends_an_answer(scripted, scripted_app, raw, tokenizer):
    post(scripted_app, raw, CHAT, stop_token_ids=[7])
    post(scripted_app, raw, CHAT, ignore_eos=True, stop_token_ids=[7])
    post(scripted_app, raw, TEXT)
    one, two, three = [request.sampling.stop_token_ids for request in scripted.requests]
    assert one == (*tokenizer.stop_ids, 7)
    assert two == (7,)
    assert three == tokenizer.text_stop_ids


def test_the_best_of_several(scripted, scripted_app, raw):
    post(scripted_app, raw, TEXT, n=1, best_of=4)
    [request] = scripted.requests
    assert (request.n, request.best_of) == (1, 4)


def test_a_prompt_is_cut_only_where_the_client_says_so(app, raw):
    long = list(range(40, 240)) * 2
    refused = post(app, raw, TEXT, prompt=long)
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    cut = post(app, raw, TEXT, prompt=long, truncate_prompt_tokens=20, seed=1, echo=True).json()
    alone = post(app, raw, TEXT, prompt=long[-20:], seed=1, echo=True).json()
    assert cut["choices"] == alone["choices"]
    assert cut["usage"]["prompt_tokens"] == 20


def test_usage_tells_what_was_not_computed_anew(app, raw):
    prompt = list(range(40, 120))
    first, second = (post(app, raw, TEXT, prompt=prompt).json()["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] == 64


def test_no_text_of_a_stop_is_sent_before_enough_tokens_have_come(app, raw):
    def ask(**fields):
        reply = post(app, raw, TEXT, max_tokens=30, seed=3, **fields).json()
        return reply["choices"][0]["text"], reply["usage"]["completion_tokens"]

    whole, _ = ask(ignore_eos=True)
    stop = next(c for c in whole if c.isascii() and c.isprintable())
    text, n_tokens = ask(ignore_eos=True, stop=stop)
    assert text == whole[: whole.index(stop)]
    longer, n_longer = ask(ignore_eos=True, stop=stop, min_tokens=n_tokens + 1)
    assert n_longer > n_tokens
    assert longer.startswith(text + stop)


HELD = [
    ({"response_format": {"type": "json_object"}}, dict),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True,
      "schema": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}}}},
     list),
    ({"structured_outputs": {"regex": "[0-9]{3}"}}, int),
    ({"structured_outputs": {"choice": ["true", "false"]}}, bool),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "kind"), HELD)
def test_answers_have_the_form_that_was_asked_for(app, raw, fields, kind):
    for seed in range(3):
        reply = post(app, raw, CHAT, **fields, seed=seed, max_tokens=150, temperature=0.3).json()
        choice = reply["choices"][0]
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), kind)
        else:
            assert kind is dict, "only free text inside an object may not end in time"
