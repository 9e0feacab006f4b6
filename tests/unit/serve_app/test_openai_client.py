"""The official client against the application, the engine running for real on a fake model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import openai
import pytest

from mulm.accounts import Key, KeyLimits
from mulm.errors import ConflictError, DeadlineError, MulmError, OverloadedError, RateLimitedError
from serve_app.auth import KeyRing
from serve_app.control_api.idempotency import KeyReusedError
from serve_app.ingress import make_app
from serve_app.key_text import digest_of
from serve_app.limiter import Limiter
from serve_app.service import Service
from serve_app.usage_writer import UsageWriter
from tests.unit.serve_app.conftest import KEY, SECRET, listening

MESSAGES = [{"role": "user", "content": "the fox"}]


def run(coroutine):
    return asyncio.run(coroutine)


def test_models(app, client):
    async def check():
        page = await client(app).models.list()
        assert [m.id for m in page.data] == ["tiny"]
        assert (await client(app).models.retrieve("tiny@1")).id == "tiny"

    run(check())


def test_a_chat_is_answered_with_usage(app, client, tokenizer):
    async def check():
        reply = await client(app).chat.completions.create(
            model="tiny", messages=MESSAGES, max_completion_tokens=7, seed=1
        )
        assert reply.object == "chat.completion"
        assert reply.choices[0].message.role == "assistant"
        assert reply.choices[0].finish_reason in ("length", "stop")
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
        assert reply.usage.completion_tokens <= 7

    run(check())


def test_streamed_equals_whole(app, client):
    async def check():
        options = {"model": "tiny", "messages": MESSAGES, "max_tokens": 40, "seed": 5, "n": 3}
        await client(app).chat.completions.create(**options)  # from now on its pages are kept
        whole = await client(app).chat.completions.create(**options)
        texts, reasons, usage = [""] * 3, [None] * 3, None
        async for chunk in await client(app).chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        ):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        assert texts == [c.message.content for c in whole.choices]
        assert reasons == [c.finish_reason for c in whole.choices]
        assert usage == whole.usage
        assert len(set(texts)) == 3

    run(check())


def test_the_clients_stream_helper_works(app, client):
    async def check():
        async with client(app).chat.completions.stream(
            model="tiny", messages=MESSAGES, max_tokens=5, seed=1
        ) as stream:
            pieces = [event.delta async for event in stream if event.type == "content.delta"]
        whole = await client(app).chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=5, seed=1
        )
        assert "".join(pieces) == whole.choices[0].message.content

    run(check())


@pytest.mark.parametrize(
    "prompt", ["the fox", ["the fox", "a dog"], [40, 41, 42], [[40, 41], [42]]]
)
def test_completions_take_every_kind_of_prompt(app, client, prompt):
    async def check():
        create = client(app).completions.create
        reply = await create(model="tiny", prompt=prompt, max_tokens=5, temperature=0)
        n_prompts = len(prompt) if isinstance(prompt, list) and prompt[0] != 40 else 1
        assert [c.index for c in reply.choices] == list(range(n_prompts))
        streamed = [""] * n_prompts
        async for chunk in await create(
            model="tiny", prompt=prompt, max_tokens=5, temperature=0, stream=True
        ):
            for choice in chunk.choices:
                streamed[choice.index] += choice.text
        assert streamed == [c.text for c in reply.choices]

    run(check())


def test_same_seed_same_text_whatever_runs_beside_it(app, client):
    async def check():
        create = client(app).completions.create

        async def once(seed):
            reply = await create(model="tiny", prompt="x", max_tokens=20, seed=seed)
            return reply.choices[0].text

        alone = await once(3)
        crowd = await asyncio.gather(*[once(seed) for seed in range(9)])
        assert crowd[3] == alone

    run(check())


def test_errors_arrive_as_the_clients_own_classes(app, client):
    async def check():
        good = client(app)
        with pytest.raises(openai.AuthenticationError) as wrong_key:
            await client(app, "mulm_sk_wrong").models.list()
        assert wrong_key.value.code == "invalid_api_key"
        with pytest.raises(openai.NotFoundError) as no_model:
            await good.completions.create(model="other", prompt="x")
        assert no_model.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as too_long:
            await good.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=999)
        assert too_long.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError) as bad_id:
            await good.completions.create(model="tiny", prompt=[99999])
        assert bad_id.value.param == "prompt"

    run(check())


def ask(client: openai.OpenAI | openai.AsyncOpenAI, **options):
    return client.completions.create(**{"model": "tiny", "prompt": "x", "max_tokens": 2} | options)


def with_another_key(client):
    return client.with_options(api_key="mulm_sk_wrong")


REFUSED: list[tuple[type[openai.APIStatusError], int, Callable]] = [
    (openai.BadRequestError, 400, lambda client: ask(client, temperature=9)),
    (openai.AuthenticationError, 401, lambda client: ask(with_another_key(client))),
    (openai.PermissionDeniedError, 403, lambda client: client.files.list()),
    (openai.NotFoundError, 404, lambda client: ask(client, model="other")),
    (openai.APIStatusError, 413, lambda client: ask(client, prompt="x" * (5 << 20))),
]
FAILED: list[tuple[type[openai.APIStatusError], int, MulmError]] = [
    (openai.ConflictError, 409, ConflictError("x")),
    (openai.UnprocessableEntityError, 422, KeyReusedError("x")),
    (openai.RateLimitError, 429, RateLimitedError("x")),
    (openai.InternalServerError, 500, MulmError("x")),
    (openai.InternalServerError, 503, OverloadedError("x")),
    (openai.InternalServerError, 504, DeadlineError("x")),
]


@pytest.fixture
def friends_app(served):
    """For a key of inference alone."""
    key = Key("key_1", "friend", 0.0, "inference")
    return make_app(Service.of(served), KeyRing(lambda: {digest_of(KEY, SECRET): key}, SECRET))


def require_class(caught: openai.APIStatusError, cls: type, status: int) -> None:
    assert type(caught) is cls
    assert caught.status_code == status
    assert caught.code
    assert caught.request_id


def test_each_status_is_a_class_of_its_own(friends_app, scripted, client):
    async def check():
        for cls, status, call in REFUSED:
            with pytest.raises(cls) as caught:
                await call(client(friends_app))
            require_class(caught.value, cls, status)
        for cls, status, scripted.error in FAILED:
            with pytest.raises(cls) as caught:
                await ask(client(friends_app))
            require_class(caught.value, cls, status)

    run(check())


def test_the_synchronous_client_has_the_same_classes(friends_app, scripted):
    def check(address: str) -> None:
        with openai.OpenAI(api_key=KEY, base_url=f"{address}/v1", max_retries=0) as client:
            for cls, status, call in REFUSED:
                with pytest.raises(cls) as caught:
                    call(client)
                require_class(caught.value, cls, status)
            for cls, status, scripted.error in FAILED:
                with pytest.raises(cls) as caught:
                    ask(client)
                require_class(caught.value, cls, status)
            scripted.error, scripted.never_ends = None, True
            with pytest.raises(openai.APITimeoutError):
                ask(client.with_options(timeout=0.2))

    async def listen():
        async with listening(friends_app) as address:
            await asyncio.to_thread(check, address)
        with (
            openai.OpenAI(api_key=KEY, base_url=f"{address}/v1", max_retries=0) as client,
            pytest.raises(openai.APIConnectionError) as caught,
        ):
            await asyncio.to_thread(ask, client)  # nobody listens any more
        assert type(caught.value) is openai.APIConnectionError

    run(listen())


def test_a_key_that_has_asked_enough_is_told_so(served, client):
    key = Key("key_1", "friend", 0.0, "inference", limits=KeyLimits(requests_per_minute=1))
    ring = KeyRing(lambda: {digest_of(KEY, SECRET): key}, SECRET)
    limiter = Limiter(UsageWriter(lambda _writer, _seq, _rows: {}))
    app = make_app(Service.of(served), ring, limiter=limiter)

    async def check():
        await client(app).models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            await client(app).models.list()
        assert caught.value.code == "rate_limit_exceeded"

    run(check())
