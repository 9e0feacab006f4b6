"""What the settings make of an opened model: graphs on a GPU, exactness, pages that fit."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mulm.engine.fake import FakeModel
from mulm.engine.graph_tape import TapeRecorder
from mulm.errors import ConfigError
from mulm.messages import GenerateRequest, SamplingParams
from mulm.testing import tiny_model
from serve_app import engine_of_model
from serve_app.engine_host import EngineHost
from serve_app.engine_of_model import make_engine, n_pages
from serve_app.opened_model import OpenedModel
from serve_app.settings import AppArgs

SAMPLING = SamplingParams(max_tokens=8, temperature=0, logprobs=64)
REQUESTS = [GenerateRequest(str(n), tuple(range(1, 4 + 7 * n)), SAMPLING) for n in range(4)]
ARGS = AppArgs(n_slots=4)


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> TapeRecorder:
    """As if the model lay on a GPU."""
    tape = TapeRecorder()
    monkeypatch.setattr(engine_of_model, "recorder_for", lambda _model: tape)
    return tape


def test_on_a_gpu_steps_are_recorded_unless_that_is_turned_off(tape: TapeRecorder) -> None:
    opened = OpenedModel("m", tiny_model())
    plain = make_engine(opened, args_of(cuda_graphs=False))
    assert plain.graphs is None
    under_test = make_engine(opened, ARGS)
    assert under_test.graphs is not None
    assert under_test.graphs.n_graphs == 4
    asked = [replace(one, sampling=replace(SAMPLING, logprobs=None)) for one in REQUESTS]
    assert under_test.generate(asked) == plain.generate(asked)
    assert tape.n_repeated > 4 + 5


def test_on_a_cpu_nothing_is_recorded() -> None:
    assert make_engine(OpenedModel("m", tiny_model()), ARGS).graphs is None


def test_exact_answers_where_they_are_asked_for() -> None:
    opened = OpenedModel("m", tiny_model())
    args = args_of(batch_invariant=True)
    together = make_engine(opened, args).generate(REQUESTS)
    for one in REQUESTS:
        assert make_engine(opened, args).generate([one]) == {
            one.request_id: replace(together[one.request_id], n_cached_tokens=0)
        }


def test_who_cannot_be_exact_is_refused_and_the_model_before_it_goes_on() -> None:
    class Inexact(FakeModel):
        is_batch_invariant = False

    host = EngineHost(
        lambda args: OpenedModel(str(args.model), FakeModel() if args.model == "m@1" else Inexact())
    )

    async def check() -> None:
        await host.reconfigure({"model": "m@1", "batch_invariant": True})
        with pytest.raises(ConfigError, match="in any batch"):
            await host.reconfigure({"model": "m@2", "batch_invariant": True})
        asked = GenerateRequest("a", (1, 2), SamplingParams(max_tokens=2))
        assert [chunk async for chunk in host.generate("m@1", asked)]
        await host.stop()

    asyncio.run(check())


def test_the_page_of_padding_is_one_of_those_that_memory_holds(tape: TapeRecorder) -> None:
    opened = OpenedModel("m", tiny_model())
    page_bytes = opened.model.page_bytes()
    args = args_of(kv_cache_bytes=1 << 20, n_slots=1024)
    held = (1 << 20) // page_bytes
    assert make_engine(opened, args).n_pages == held - 1
    assert make_engine(opened, args.model_copy(update={"cuda_graphs": False})).n_pages == held
    assert make_engine(OpenedModel("m", FakeModel()), args).n_pages == n_pages(args, 5, 16)


def args_of(**changes: object) -> AppArgs:
    return ARGS.model_copy(update=changes)
