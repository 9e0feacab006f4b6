from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from contextlib import aclosing

import pytest
import torch

from mulm.engine.draft_model import DraftModel
from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.engine.speculation import Speculation
from mulm.errors import ContextLengthError, NotRunningError
from mulm.messages import GenerateRequest, SamplingParams, join_chunks
from serve_app.engine_thread import EngineThread


class SlowModel(FakeModel):
    """Takes a moment for each step, and breaks when told to."""

    step_s = 0.002
    is_broken = False

    def __init__(self, config):
        super().__init__(config)
        self.gate = threading.Event()
        self.gate.set()
        self.is_inside = threading.Event()

    def extend(self, batch, cache):
        if len(batch.ids_T) == len(batch.begins_S1) - 1:  # streams only
            self.is_inside.set()
            self.gate.wait(30)
        time.sleep(self.step_s)
        if self.is_broken:
            raise RuntimeError("device lost")
        return super().extend(batch, cache)


@pytest.fixture
def model():
    return SlowModel(FakeConfig(max_seq_len=10_000))


@pytest.fixture
def thread(model):
    under_test = EngineThread(Engine(model, n_slots=2))
    yield under_test
    under_test.stop()


def request(name="a", max_tokens=50, prompt=(1, 2)) -> GenerateRequest:
    return GenerateRequest(name, prompt, SamplingParams(max_tokens=max_tokens, temperature=0))


async def collect(thread, one):
    return [chunk async for chunk in thread.generate(one)]


async def until_idle(thread):
    for _ in range(300):
        if thread.n_unfinished == 0:
            return
        await asyncio.sleep(0.01)
    pytest.fail("a slot is still held")


def test_tokens_are_those_of_the_engine_in_few_chunks(model):
    clock = itertools.count(0, 0.01)  # each look at the clock, one a step, finds 10 ms gone
    engine = Engine(model, n_slots=2)
    thread = EngineThread(engine, flush_interval_s=0.1, clock=lambda: next(clock))
    chunks = asyncio.run(collect(thread, request()))
    thread.stop()
    alone = Engine(FakeModel(), n_slots=1).generate([request()])["a"]
    assert sum((c.token_ids for c in chunks), ()) == alone.token_ids
    assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == "length"
    assert len(chunks[0].token_ids) == 1, "the first token goes at once"
    assert len(chunks) <= 2 + 50 * 2 // 10, "the others go in groups"


def test_all_choices_of_a_request_come_with_all_that_belongs_to_them(thread):
    sampling = SamplingParams(max_tokens=20, seed=1, logprobs=2, prompt_logprobs=1)
    one = GenerateRequest("a", (1, 2, 3), sampling, n=3)
    found = asyncio.run(collect(thread, one))
    wanted = Engine(FakeModel(), n_slots=2).generate_all([one])["a"]
    joined = [join_chunks([c for c in found if c.index == index]) for index in range(3)]
    assert joined == wanted
    assert len(wanted[0].logprobs) == len(wanted[0].token_ids)


def test_a_consumer_that_leaves_frees_its_slot(thread):
    async def check():
        async with aclosing(thread.generate(request(max_tokens=9000))) as chunks:
            await anext(chunks)
        await until_idle(thread)

    asyncio.run(check())


def test_a_cancelled_task_frees_its_slot(thread):
    async def check():
        task = asyncio.create_task(collect(thread, request(max_tokens=9000)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_idle(thread)

    asyncio.run(check())


def test_a_loop_that_died_frees_its_slots(thread):
    loop = asyncio.new_event_loop()
    chunks = thread.generate(request(max_tokens=9000))
    loop.run_until_complete(anext(chunks))
    loop.close()
    asyncio.run(until_idle(thread))


def test_refusals_arrive_at_the_consumer(thread):
    with pytest.raises(ContextLengthError):
        asyncio.run(collect(thread, request(max_tokens=20_000)))


def test_a_broken_engine_tells_consumers_and_health(thread, model):
    thread.check_health()
    model.is_broken = True
    with pytest.raises(NotRunningError):
        asyncio.run(collect(thread, request()))
    with pytest.raises(NotRunningError, match="device lost"):
        thread.check_health()
    with pytest.raises(NotRunningError):
        asyncio.run(collect(thread, request("b")))


def test_a_stuck_step_is_unhealthy_and_an_idle_engine_is_not(model):
    class Clock:
        now_s = 0.0

        def __call__(self):
            return self.now_s

    clock = Clock()
    thread = EngineThread(Engine(model, n_slots=1), clock=clock)
    clock.now_s = 1000.0
    thread.check_health()
    model.gate.clear()

    async def check():
        async with aclosing(thread.generate(request(max_tokens=5))) as chunks:
            await anext(chunks)
            await asyncio.to_thread(model.is_inside.wait, 10)
            clock.now_s = 2000.0
            with pytest.raises(NotRunningError, match="no step"):
                thread.check_health()
            model.gate.set()

    asyncio.run(check())
    thread.stop()


def test_whoever_comes_while_the_thread_dies_is_answered(thread, model):
    def die():
        model.is_broken = True
        model.gate.set()
        time.sleep(0.3)  # time enough to fail and to look into the inbox

    async def check():
        model.gate.clear()
        first = asyncio.create_task(collect(thread, request("first")))
        await asyncio.to_thread(model.is_inside.wait, 10)
        thread._inbox = SlowInbox(thread._inbox, die)
        for running in (asyncio.create_task(collect(thread, request("late"))), first):
            with pytest.raises(NotRunningError):
                await asyncio.wait_for(running, 5.0)

    asyncio.run(check())


def test_retiring_finishes_what_runs_and_takes_nothing_new(thread):
    async def check():
        running = asyncio.create_task(collect(thread, request(max_tokens=30)))
        await asyncio.sleep(0.02)
        thread.retire()
        with pytest.raises(NotRunningError):
            await collect(thread, request("b"))
        assert (await running)[-1].finish_reason == "length"

    asyncio.run(check())


def test_stopping_ends_consumers_with_an_error(thread):
    async def check():
        running = asyncio.create_task(collect(thread, request(max_tokens=9000)))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(thread.stop)
        with pytest.raises(NotRunningError):
            await running

    asyncio.run(check())


class SlowInbox:
    """An inbox that one command enters slowly."""

    def __init__(self, inner, before_put):
        self._inner = inner
        self._before_put = before_put
        self.get, self.empty = inner.get, inner.empty

    def put(self, command):
        before_put, self._before_put = self._before_put, lambda: None
        before_put()
        self._inner.put(command)


def test_torch_has_as_many_threads_as_a_swap_says_in_the_engines_own_thread(thread):
    """`torch.set_num_threads` does not reach a thread that has used torch before."""
    seen = []

    class Watching(SlowModel):
        def extend(self, batch, cache):
            seen.append(torch.get_num_threads())
            return super().extend(batch, cache)

    async def check():
        before = torch.get_num_threads()
        await collect(thread, request("a", 2))
        thread.swap(Watching(FakeConfig(max_seq_len=10_000)), before + 1)
        await collect(thread, request("b", 2))
        assert set(seen) == {before + 1}

    asyncio.run(check())


def test_what_nobody_waits_for_is_told_by_the_log_when_it_fails(caplog):
    thread = EngineThread(Engine(FakeModel(), 1))
    draft = DraftModel(FakeModel(FakeConfig(vocab_size=7)), 1 << 20)
    thread.speculate(Speculation(draft))
    asyncio.run(thread.act(lambda _engine: None))
    assert "the engine does without it what=a draft" in caplog.text
    thread.check_health()
    thread.stop()
    caplog.clear()
    thread.swap(FakeModel())
    assert "reason=the engine has stopped" in caplog.text


def test_a_bug_in_what_is_done_breaks_the_engine_and_whoever_waits_is_told():
    thread = EngineThread(Engine(FakeModel(), 1))
    with pytest.raises(NotRunningError, match="the engine broke: our bug"):
        asyncio.run(thread.act(lambda _engine: _raise(ValueError("our bug"))))
    thread._thread.join(10)
    with pytest.raises(NotRunningError, match="the engine broke"):
        thread.check_health()


def _raise(error):
    raise error


@pytest.mark.parametrize("n_others", [0, 1])
def test_who_leaves_during_a_step_costs_no_other_and_its_pages_are_free_after_it(
    thread, model, n_others
):
    def pages_of_the_others(engine):
        engine.check_integrity()
        assert engine.n_running == n_others
        held = {page for s in engine._scheduler for page in s.pages}
        assert engine.stats().n_free_pages == engine.n_pages - len(held)

    async def check():
        others = [asyncio.create_task(collect(thread, request("stays"))) for _ in range(n_others)]
        chunks = thread.generate(request("leaves", 9000, prompt=(7,) * 40))
        await anext(chunks)
        model.gate.clear()
        model.is_inside.clear()
        await asyncio.to_thread(model.is_inside.wait, 10)
        n_steps = len(model.batches)  # the step that runs now is the next
        await chunks.aclose()
        model.gate.set()
        await thread.act(pages_of_the_others)
        for other in others:
            await other
        assert len(model.batches[n_steps]) == 1 + n_others
        assert all(len(batch) <= n_others for batch in model.batches[n_steps + 1 :])
        assert n_others or len(model.batches) == n_steps + 1

    asyncio.run(check())


def lose_a_page(engine):
    engine._scheduler.pages._free.pop()


def lose_a_slot(engine):
    engine._scheduler._free_slots.pop()


def generate_for_nobody(engine):
    engine.add(request("nobody's", prompt=(1,) * 1000))  # several steps to its first token


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lose_a_page, "pages leaked"),
        (lose_a_slot, "slots leaked"),
        (generate_for_nobody, "for nobody"),
    ],
)
def test_books_that_do_not_add_up_break_an_idle_engine(model, damage, told, caplog):
    thread = EngineThread(Engine(model, n_slots=2), idle_check_s=0.0)
    asyncio.run(collect(thread, request()))
    thread.check_health()
    with contextlib.suppress(NotRunningError):  # it is told before or while it looks
        asyncio.run(thread.act(damage))
    thread._thread.join(10)
    with pytest.raises(NotRunningError, match=told):
        thread.check_health()
    logged = [r for r in caplog.records if r.name == "serve_app.engine_thread"]
    assert [(r.levelname, r.getMessage()) for r in logged] == [("ERROR", "engine broke requests=0")]


def test_books_are_looked_through_once_in_a_time_without_work(model):
    engine, seen = Engine(model, n_slots=2), []
    look = engine.check_integrity
    engine.check_integrity = lambda: (look(), seen.append(len(model.batches)))
    thread = EngineThread(engine, idle_check_s=0.0)

    async def check():
        for name in "ab":
            await collect(thread, request(name, 3))
            async with asyncio.timeout(10):
                while thread.n_unfinished or not seen or seen[-1] < len(model.batches):
                    await asyncio.sleep(0.01)
        assert len(seen) <= 3, "before the first, and after each"

    asyncio.run(check())
    thread.stop()
    thread.check_health()
