"""Log-probabilities over HTTP are those of the engine, whole and streamed, token by token."""

from __future__ import annotations

import asyncio
import math

import pytest

from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.messages import GenerateRequest, SamplingParams, TokenLogprob
from serve_app.openai_api.logprobs import LegacyLogprobs, TokenNames, chat_logprobs

PROMPT = [40, 41, 200, 42]


def run(coroutine):
    return asyncio.run(coroutine)


def told_by_the_engine(tokenizer, **options):
    sampling = SamplingParams(temperature=0.0, stop_token_ids=tokenizer.text_stop_ids, **options)
    engine = Engine(FakeModel(FakeConfig(vocab_size=320, max_seq_len=200)), n_slots=1)
    return engine.generate([GenerateRequest("a", tuple(PROMPT), sampling)])["a"]


def test_a_completion_tells_its_tokens(app, client, tokenizer):
    reply = run(
        client(app).completions.create(
            model="tiny", prompt=PROMPT, max_tokens=8, temperature=0, logprobs=3
        )
    )
    told = told_by_the_engine(tokenizer, max_tokens=8, logprobs=3)
    found, names = reply.choices[0].logprobs, TokenNames(tokenizer)
    assert found.tokens == [names.name(i) for i in told.token_ids]
    assert found.token_logprobs == pytest.approx([x.logprob for x in told.logprobs])
    assert all(len(top) == 3 for top in found.top_logprobs)
    assert [max(top, key=top.get) for top in found.top_logprobs] == found.tokens
    assert found.text_offset[0] == 0
    assert found.text_offset == sorted(found.text_offset)


def test_echo_tells_the_prompts_tokens_too(app, client, tokenizer):
    reply = run(
        client(app).completions.create(
            model="tiny", prompt=[PROMPT, PROMPT[:2]], max_tokens=1, temperature=0, logprobs=1,
            echo=True,
        )
    )  # fmt: skip
    told = told_by_the_engine(tokenizer, max_tokens=1, logprobs=1, prompt_logprobs=1)
    first, second = reply.choices
    assert first.text.startswith(tokenizer.decode(PROMPT))
    assert first.logprobs.token_logprobs[0] is None
    assert first.logprobs.top_logprobs[0] is None
    prompt = [x.logprob for x in told.prompt_logprobs[1:]]
    assert first.logprobs.token_logprobs[1:4] == pytest.approx(prompt)
    assert first.logprobs.token_logprobs[4:] == pytest.approx([x.logprob for x in told.logprobs])
    assert second.logprobs.token_logprobs[1] == pytest.approx(prompt[0])


def test_a_prompt_alone_is_scored_without_a_new_token(app, client, tokenizer):
    reply = run(
        client(app).completions.create(
            model="tiny", prompt=PROMPT, max_tokens=0, logprobs=0, echo=True
        )
    )
    told = told_by_the_engine(tokenizer, max_tokens=0, prompt_logprobs=0)
    assert reply.usage.completion_tokens == 0
    assert reply.choices[0].text == tokenizer.decode(PROMPT)
    assert reply.choices[0].logprobs.top_logprobs is None
    expected = [x.logprob for x in told.prompt_logprobs[1:]]
    assert reply.choices[0].logprobs.token_logprobs[1:] == pytest.approx(expected)


def test_evaluation_tools_find_one_token_after_the_prompt_even_where_a_text_ends(
    app, client, tokenizer
):
    """They take everything but the last token as the prompt's."""
    reply = run(
        client(app).completions.create(
            model="tiny", prompt=PROMPT, max_tokens=1, temperature=0, logprobs=1, echo=True,
            logit_bias={str(tokenizer.end_of_text_id): 100},
        )
    )  # fmt: skip
    assert len(reply.choices[0].logprobs.tokens) == 5
    assert reply.choices[0].logprobs.tokens[-1] == "<|endoftext|>"


def test_the_token_before_a_text_is_not_part_of_the_echo(app, client):
    reply = run(
        client(app).completions.create(
            model="tiny", prompt="the fox", max_tokens=2, logprobs=0, echo=True, seed=1
        )
    )
    choice = reply.choices[0]
    assert choice.text.startswith("the fox")
    assert "".join(choice.logprobs.tokens).startswith("the fox")
    assert None not in choice.logprobs.token_logprobs


@pytest.mark.parametrize("echo", [False, True])
def test_streamed_completions_add_up_to_the_whole(app, client, echo):
    options = {
        "model": "tiny", "prompt": [PROMPT, PROMPT[1:]], "max_tokens": 12, "seed": 4, "n": 2,
        "logprobs": 2, "echo": echo,
    }  # fmt: skip

    async def check():
        whole = (await client(app).completions.create(**options)).choices
        found = {index: ([], [], []) for index in range(4)}
        async for chunk in await client(app).completions.create(**options, stream=True):
            for choice in chunk.choices:
                texts, tokens, offsets = found[choice.index]
                texts.append(choice.text)
                if choice.logprobs:
                    tokens += choice.logprobs.token_logprobs
                    offsets += choice.logprobs.text_offset
        for choice in whole:
            texts, tokens, offsets = found[choice.index]
            assert "".join(texts) == choice.text
            assert tokens == choice.logprobs.token_logprobs
            assert offsets == choice.logprobs.text_offset

    run(check())


def test_a_chat_tells_its_tokens_whole_and_streamed(app, client):
    options = {
        "model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 12,
        "seed": 4, "logprobs": True, "top_logprobs": 2, "temperature": 0.3,
    }  # fmt: skip

    async def check():
        [choice] = (await client(app).chat.completions.create(**options)).choices
        whole = choice.logprobs.content
        said = b"".join(bytes(x.bytes or ()) for x in whole).decode(errors="replace")
        assert said == choice.message.content
        assert all(len(x.top_logprobs) == 2 for x in whole)
        streamed = []
        async for chunk in await client(app).chat.completions.create(**options, stream=True):
            for part in chunk.choices:
                streamed += part.logprobs.content if part.logprobs else []
        assert streamed == whole
        plain = await client(app).chat.completions.create(**options | {"top_logprobs": 0})
        assert [x.token for x in plain.choices[0].logprobs.content] == [x.token for x in whole]
        assert plain.choices[0].logprobs.content[0].top_logprobs == []

    run(check())


def test_tokens_that_are_no_text_have_names_and_bytes(tokenizer):
    half = tokenizer.encode("ö")[0]
    names = TokenNames(tokenizer)
    assert names.name(half) == "bytes:\\xc3"
    assert names.name(tokenizer.end_of_text_id) == "<|endoftext|>"
    assert len({names.name(i) for i in range(320)}) == 320
    [entry] = chat_logprobs([TokenLogprob(half, -math.inf)], names)
    assert entry == {
        "token": "bytes:\\xc3", "logprob": -9999.0, "bytes": [0xC3], "top_logprobs": [],
    }  # fmt: skip
    assert chat_logprobs([TokenLogprob(0, -1.0)], names)[0]["bytes"] is None


def test_offsets_count_characters(tokenizer):
    ids = tokenizer.encode("wö!")
    writer = LegacyLogprobs(tokenizer, TokenNames(tokenizer))
    offsets = writer.piece([None] * len(ids), ids, has_alternatives=False)["text_offset"]
    assert offsets[0] == 0
    assert offsets[-1] == 2
