from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from dataclasses import replace

import pytest

from mulm.engine.fake import FakeConfig, FakeModel
from mulm.engine.prompt_lookup import PromptLookup
from mulm.errors import ConfigError, ConflictError, NotFoundError, NotRunningError
from mulm.messages import GenerateRequest, Grammar, SamplingParams
from mulm.model.adapter import Adapter
from mulm.native.build import NoKernelsError
from serve_app.engine_client import ModelChangingError
from serve_app.engine_host import EngineHost
from serve_app.engine_of_model import n_pages, speculation_of
from serve_app.opened_model import OpenedModel
from serve_app.settings import AppArgs

KEEP_S = 0.3

REQUEST = GenerateRequest("a", (1, 2), SamplingParams(max_tokens=40, temperature=0))


@pytest.fixture
def host():
    return EngineHost(
        lambda args: OpenedModel(f"id of {args.model}", FakeModel()),
        keep_previous_s=KEEP_S,
    )


async def collect(host, model_id, request=REQUEST):
    return [chunk async for chunk in host.generate(model_id, request)]


def test_it_serves_the_model_it_was_configured_with(host):
    async def check():
        with pytest.raises(NotRunningError):
            await collect(host, "id of m@1")
        host.check_health()
        await host.reconfigure({"model": "m@1"})
        assert (await collect(host, "id of m@1"))[-1].finish_reason == "length"
        assert await host.load() == {"model_id": "id of m@1", "n_unfinished": 0}

    asyncio.run(check())


def test_what_is_being_loaded_when_it_ends_is_ended_too():
    is_opening, may_open = threading.Event(), threading.Event()

    def open_model(args):
        is_opening.set()
        assert may_open.wait(10)
        return OpenedModel(args.model, FakeModel())

    host = EngineHost(open_model)

    async def check():
        loading = asyncio.create_task(host.reconfigure({"model": "m@1"}))
        await asyncio.to_thread(is_opening.wait, 10)
        stopping = asyncio.create_task(host.stop())
        await asyncio.sleep(0.05)
        may_open.set()
        await asyncio.gather(loading, stopping, return_exceptions=True)
        assert not any(thread._thread.is_alive() for thread in host._threads.values())
        with pytest.raises(NotRunningError, match="host ends"):
            await host.reconfigure({"model": "m@2"})

    asyncio.run(check())


def test_another_model_is_taken_over_without_dropping_a_request(host):
    async def check():
        await host.reconfigure({"model": "m@1"})
        running = host.generate("id of m@1", REQUEST)
        first = await anext(running)
        await host.reconfigure({"model": "m@2"})
        rest = [chunk async for chunk in running]
        assert sum(len(c.token_ids) for c in (first, *rest)) == 40
        assert await collect(host, "id of m@1"), "the ingress has not switched yet"
        assert await collect(host, "id of m@2")
        assert (await host.load())["model_id"] == "id of m@2"
        await asyncio.sleep(KEEP_S + 0.1)
        with pytest.raises(ModelChangingError):
            await collect(host, "id of m@1")

    asyncio.run(check())


def test_the_same_config_again_builds_no_second_engine():
    opened = []

    def open_model(args):
        opened.append(args.model)
        return OpenedModel(f"id of {args.model}", FakeModel())

    host = EngineHost(open_model)

    async def check():
        await host.reconfigure({"model": "m@1"})
        await host.reconfigure({"model": "m@1"})
        await host.reconfigure({"model": "m@1", "request_timeout_s": 5.0})
        assert opened == ["m@1"]

    asyncio.run(check())


def test_a_model_that_came_back_is_not_ended_by_its_first_leaving(host):
    async def check():
        await host.reconfigure({"model": "m@1"})
        await host.reconfigure({"model": "m@2"})
        await asyncio.sleep(KEEP_S / 2)
        await host.reconfigure({"model": "m@1"})
        await host.reconfigure({"model": "m@2"})
        await asyncio.sleep(KEEP_S * 0.7)
        assert await collect(host, "id of m@1")

    asyncio.run(check())


def test_a_wrong_config_keeps_the_old_model(host):
    async def check():
        await host.reconfigure({"model": "m@1"})
        with pytest.raises(ConfigError):
            await host.reconfigure({"model": "m@2", "n_slots": 0})
        assert await collect(host, "id of m@1")

    asyncio.run(check())


def test_the_faster_form_takes_over_under_a_running_request():
    is_compiled = threading.Event()

    config = FakeConfig(max_seq_len=60_000)
    slow = FakeModel(config)

    def make():
        assert is_compiled.wait(10)
        return FakeModel(config, salt=1)

    host = EngineHost(lambda _args: OpenedModel("m", slow, make))

    async def check():
        await host.reconfigure({"model": "m@1"})
        one = replace(REQUEST, sampling=SamplingParams(max_tokens=50_000, temperature=0))
        async with aclosing(host.generate("m", one)) as chunks:
            async for chunk in chunks:
                assert chunk.finish_reason is None, "it ended before the faster form came"
                is_compiled.set()
                if not host._tasks:
                    break
            n_before = len(slow.batches)
            await anext(chunks)
        assert len(slow.batches) <= n_before + 1, "the slow form is still at work"

    asyncio.run(check())


def test_without_a_compiler_it_goes_on_as_it_is():
    def make():
        raise NoKernelsError("no C++ compiler is here")

    host = EngineHost(lambda _args: OpenedModel("m", FakeModel(), make))

    async def check():
        await host.reconfigure({"model": "m@1"})
        await asyncio.gather(*host._tasks)
        assert (await collect(host, "m"))[-1].finish_reason == "length"
        host.check_health()

    asyncio.run(check())


def test_a_grammar_is_prepared_off_the_loop_and_refused_before_the_engine_has_it():
    seen = []

    def prepare(grammar):
        seen.append((grammar.text, threading.current_thread() is threading.main_thread()))
        raise ConfigError("no grammar", param="grammar")

    host = EngineHost(lambda _args: OpenedModel("m", FakeModel(), prepare=prepare))
    sampling = SamplingParams(grammar=Grammar("regex", "a+"))

    async def check():
        await host.reconfigure({"model": "m@1"})
        with pytest.raises(ConfigError, match="no grammar"):
            await collect(host, "m", replace(REQUEST, sampling=sampling))
        assert (await host.load())["n_unfinished"] == 0

    asyncio.run(check())
    assert seen == [("a+", False)]


def adapters_of(args, _model_id):
    """By the versions that are asked for; those of `unfit` do not fit."""
    return {ref: None if "unfit" in ref else Adapter({}) for ref in args.adapters.values()}


def test_adapters_are_given_to_the_running_engine():
    opened = []

    def open_model(args):
        opened.append(args.model)
        return OpenedModel(f"id of {args.model}", FakeModel())

    host = EngineHost(open_model, KEEP_S, open_adapters=adapters_of)

    async def end_with(adapter, model_id="id of m@1"):
        return (await collect(host, model_id, replace(REQUEST, adapter=adapter)))[-1].finish_reason

    async def check():
        await host.reconfigure({"model": "m@1", "adapters": {"x": "x@1", "y": "unfit@1"}})
        assert await end_with("x@1") == "length"
        with pytest.raises(ModelChangingError, match="adapter is being changed"):
            await end_with("unfit@1")
        await host.reconfigure({"model": "m@1", "adapters": {"x": "x@2"}})
        assert opened == ["m@1"], "the model stays"
        assert await end_with("x@2") == await end_with("x@1") == "length"
        await host.reconfigure({"model": "m@2", "adapters": {"x": "x@2"}})
        assert await end_with("x@2", "id of m@2") == "length"
        await asyncio.sleep(KEEP_S + 0.1)
        assert host._adapters.keys() == {"id of m@2"}
        await host.stop()

    asyncio.run(check())


def test_an_adapter_that_fails_to_open_keeps_what_is_served():
    def refuse(args, _model_id):
        if args.adapters:
            raise ConflictError("does not fit")
        return {}

    host = EngineHost(lambda args: OpenedModel(args.model, FakeModel()), open_adapters=refuse)

    async def check():
        await host.reconfigure({"model": "m@1"})
        for model in ("m@1", "m@2"):
            with pytest.raises(ConflictError, match="does not fit"):
                await host.reconfigure({"model": model, "adapters": {"x": "x@1"}})
        assert await host.load() == {"model_id": "m@1", "n_unfinished": 0}

    asyncio.run(check())


def stats(host, model_id="m"):
    return host._threads[model_id].stats()


@pytest.mark.parametrize("n_guesses", [0, 3])
def test_a_draft_guesses_and_changes_no_answer(n_guesses):
    draft = FakeModel()
    host = EngineHost(lambda _args: OpenedModel("m", FakeModel(), draft=draft))
    plain = EngineHost(lambda _args: OpenedModel("m", FakeModel()))

    async def check():
        for one in (host, plain):
            await one.reconfigure({"model": "m@1", "n_guesses": n_guesses})
        assert tokens(await collect(host, "m")) == tokens(await collect(plain, "m"))
        assert stats(host).accepted_tokens > 0
        assert draft.batches
        await host.stop()
        await plain.stop()

    asyncio.run(check())


def tokens(chunks):
    return [token_id for chunk in chunks for token_id in chunk.token_ids]


def test_a_models_draft_comes_and_goes_with_an_alias():
    """`open_model` leaves it out where it does not fit."""
    drafts = [FakeModel(), None, FakeModel()]
    opened = iter(
        OpenedModel(f"m{n}", FakeModel(salt=n), draft=draft) for n, draft in enumerate(drafts)
    )
    points_to = ["m0"]
    host = EngineHost(
        lambda _args: next(opened), resolve=lambda _args: (points_to[0],), follow_period_s=0.01
    )

    async def check():
        await host.reconfigure({"model": "m@live", "draft": "small@1"})
        for n, draft in enumerate(drafts):
            points_to[0] = f"m{n}"
            while (await host.load())["model_id"] != f"m{n}":
                await asyncio.sleep(0.01)
            assert (await collect(host, f"m{n}"))[-1].finish_reason == "length"
            assert (stats(host, f"m{n}").proposed_tokens > 0) is (draft is not None)
        await host.stop()

    asyncio.run(check())


def test_a_drafts_faster_form_takes_over_after_the_models():
    slow, fast = FakeModel(), FakeModel()
    made = []

    def make(name, model):
        made.append(name)
        return model

    opened = OpenedModel(
        "m",
        FakeModel(),
        lambda: make("model", FakeModel()),
        draft=slow,
        make_draft_faster=lambda: make("draft", fast),
    )
    host = EngineHost(lambda _args: opened)

    async def check():
        await host.reconfigure({"model": "m@1"})
        await asyncio.gather(*host._tasks)
        assert made == ["model", "draft"]
        await collect(host, "m")
        assert fast.batches
        assert not slow.batches
        await host.stop()

    asyncio.run(check())


@pytest.mark.parametrize(
    "error", [NotFoundError("gone"), NoKernelsError("no"), MemoryError("none"), OSError("disk")]
)
def test_a_faster_form_that_cannot_be_made_leaves_the_one_that_answers(error, caplog):
    def fail():
        raise error

    host = EngineHost(lambda _args: OpenedModel("m", FakeModel(), fail))

    async def check():
        await host.reconfigure({"model": "m@1"})
        await asyncio.gather(*host._tasks)
        assert (await collect(host, "m"))[-1].finish_reason == "length"
        await host.stop()

    asyncio.run(check())
    assert "plain torch goes on" in caplog.text
    assert str(error) in caplog.text


def test_a_drafts_memory_is_an_eighth():
    windows = [
        speculation_of(
            OpenedModel("m", FakeModel(), draft=FakeModel(FakeConfig(max_seq_len=1 << 14))),
            AppArgs(kv_cache_bytes=n_mb << 20),
        )
        for n_mb in (1, 2)
    ]
    for speculation in windows:
        speculation.proposer.start(100, 1 << 14, FakeConfig().vocab_size)
    assert [s.proposer.n_windows for s in windows] == [8, 16]
    assert {s.max_guesses for s in windows} == {8}


def test_without_a_draft_the_text_itself_is_asked_where_guesses_are_wanted():
    opened = OpenedModel("m", FakeModel())
    assert speculation_of(opened, AppArgs()) is None
    assert isinstance(speculation_of(opened, AppArgs(n_guesses=2)).proposer, PromptLookup)


@pytest.mark.parametrize(
    ("kv_cache_bytes", "expected"), [(1 << 30, 8 * 10), (50 << 20, 50), (1 << 20, 10)]
)
def test_pages_fit_the_memory_and_hold_a_window(kv_cache_bytes, expected):
    args = AppArgs(n_slots=8, kv_cache_bytes=kv_cache_bytes)
    assert n_pages(args, 10, 1 << 20) == expected
