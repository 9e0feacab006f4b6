from __future__ import annotations

import asyncio

import pytest

from mulm.chat import Message, render

TURNS = [{"role": "user", "content": "hi"}]


def post(app, raw, url, **fields):
    async def once():
        async with raw(app) as client:
            return await client.post(url, json={"model": "tiny"} | fields)

    return asyncio.run(once())


@pytest.mark.parametrize("root", ["", "/v1"])
def test_there_and_back(app, raw, tokenizer, root):
    told = post(app, raw, f"{root}/tokenize", prompt="the wörld", return_token_strs=True).json()
    assert told["tokens"] == [tokenizer.end_of_text_id, *tokenizer.encode("the wörld")]
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert told["max_model_len"] == 200
    back = post(app, raw, f"{root}/detokenize", tokens=told["tokens"]).json()
    assert back == {"prompt": "the wörld"}


def test_without_the_beginning(app, raw, tokenizer):
    told = post(app, raw, "/v1/tokenize", prompt="the", add_special_tokens=False).json()
    assert told["tokens"] == tokenizer.encode("the")


def test_a_conversation(app, raw, tokenizer):
    told = post(app, raw, "/v1/tokenize", messages=TURNS).json()
    turns = [Message(role="user", content="hi")]
    assert told["tokens"] == [tokenizer.end_of_text_id, *render(turns, tokenizer)]


@pytest.mark.parametrize(
    ("url", "fields", "param"),
    [
        ("/v1/tokenize", {}, "prompt"),
        ("/v1/tokenize", {"prompt": "a", "messages": TURNS}, "prompt"),
        ("/v1/tokenize", {"prompt": "a", "add_special": True}, "add_special"),
        ("/v1/detokenize", {"tokens": [-1]}, "tokens.0"),
        ("/v1/detokenize", {}, "tokens"),
        ("/v1/detokenize", {"tokens": [1, 320]}, "tokens"),
        ("/v1/detokenize", {"tokens": [10**30]}, "tokens"),
    ],
)
def test_what_cannot_be_is_refused_by_name(app, raw, url, fields, param):
    reply = post(app, raw, url, **fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_an_id_is_told_as_it_was_given(app, raw):
    reply = post(app, raw, "/v1/detokenize", tokens=[10**30])
    assert f"token id {10**30} is not in" in reply.json()["error"]["message"]


def test_facts_of_the_tokenizer(app, raw, tokenizer):
    async def once():
        async with raw(app) as client:
            return (await client.get("/v1/tokenizer_info")).json()

    told = asyncio.run(once())
    assert told["vocab_size"] == 320
    assert told["eos_token"] == "<|endoftext|>"
