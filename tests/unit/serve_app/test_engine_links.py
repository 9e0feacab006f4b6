"""Requests and tokens between an ingress and engine hosts, over real connections in one process."""

from __future__ import annotations

import asyncio
import warnings
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace

import pytest

from mulm.engine.fake import FakeConfig, FakeModel
from mulm.errors import (
    ConfigError,
    ContextLengthError,
    DeadlineError,
    MulmError,
    NotRunningError,
    OverloadedError,
)
from mulm.messages import GenerateRequest, Grammar, SamplingParams, TokenChunk, TokenLogprob
from serve_app.chunk_codec import decode_chunk, encode_chunk
from serve_app.engine_client import EngineLostError, ModelChangingError
from serve_app.engine_host import EngineHost
from serve_app.engine_line import choose
from serve_app.engine_links import EngineLinks
from serve_app.opened_model import OpenedModel
from serve_app.prefix_key import home_of, marks_of

with warnings.catch_warnings():  # Serve's own, at import, when a host asks who it is
    warnings.simplefilter("ignore")
    import ray.serve  # noqa: F401

PLAIN = TokenChunk("a", (1, 2, 3))
FULL = TokenChunk(
    "b",
    (7,),
    "stop",
    2,
    (TokenLogprob(7, -0.1 / 3, ((7, -0.1 / 3), (9, float("-inf")))),),
    (None, TokenLogprob(4, -2.5)),
    16,
    (0.1, -3e-9),
)


@pytest.mark.parametrize("chunk", [PLAIN, FULL, TokenChunk("c", (), "deadline", 1)])
def test_what_is_read_equals_what_was_written(chunk):
    line = encode_chunk(chunk)
    assert b"\n" not in line
    assert decode_chunk(line) == chunk


APP = "engine-tiny"
WINDOW = 6_000
ENDLESS = SamplingParams(max_tokens=WINDOW - 200, temperature=0)


class Ground:
    """An ingress and as many engine hosts as are asked for."""

    def __init__(self) -> None:
        self.links = EngineLinks("127.0.0.1")
        self.line = self.links.line(APP)
        self.hosts = []

    async def host(self, prepare=None, **args) -> EngineHost:
        def open_model(given):
            return OpenedModel(
                given.model, FakeModel(FakeConfig(max_seq_len=WINDOW)), prepare=prepare
            )

        host = EngineHost(open_model)
        self.hosts.append(host)
        await host.reconfigure({"model": "m@1", "n_slots": 2, "max_queued": 2} | args)
        before = len(self.line.links)
        await self.greet(host)
        await until(lambda: len(self.line.links) > before)
        return host

    async def greet(self, host, application=APP) -> None:
        await host.hello(await self.links.address(application))

    async def ask(self, request, model="m@1"):
        async with aclosing(self.line.generate(model, request)) as chunks:
            return [chunk async for chunk in chunks]

    async def begin(self, request):
        """A request whose first token has come."""
        chunks = self.line.generate("m@1", request)
        await anext(chunks)
        return chunks


async def until(is_true, timeout_s=5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_true():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def ground():
    made = Ground()
    try:
        yield made
    finally:
        for host in made.hosts:
            host._args = None  # what runs does not matter any more
            await host.stop()
        await made.links.close()


def run(check):
    async def whole():
        async with ground() as made, asyncio.timeout(20.0):
            await check(made)

    asyncio.run(whole())


def request(name, sampling=None, **options):
    sampling = sampling or SamplingParams(max_tokens=30, temperature=0)
    return GenerateRequest(name, (1, 2), sampling, **options)


def words(chunks):
    """What was generated, however it was grouped."""
    found = {}
    for chunk in chunks:
        tokens, ends = found.setdefault(chunk.index, ([], []))
        tokens += zip(chunk.token_ids, chunk.logprobs or chunk.token_ids, strict=True)
        ends += [chunk.finish_reason] if chunk.finish_reason else []
    return found


def n_unfinished(host):
    return sum(thread.n_unfinished for thread in host._threads.values())


@pytest.mark.parametrize(
    "wanted",
    [
        request("a"),
        request("a", n=2, best_of=2),
        request("a", SamplingParams(max_tokens=9, seed=5, logprobs=2, temperature=0.7)),
        request("a", SamplingParams(max_tokens=0, prompt_logprobs=1)),
        request("a", SamplingParams(max_tokens=20, grammar=Grammar("regex", "a+"))),
    ],
)
def test_the_same_tokens_and_errors_as_by_a_call(wanted):
    def prepare(_grammar):
        raise ConfigError("no grammar", hint="none", param="grammar")

    async def of(chunks):
        try:
            return words([chunk async for chunk in chunks])
        except MulmError as error:
            return type(error), error.message, error.hint, error.details

    async def check(made):
        host = await made.host(prepare)
        assert await of(made.line.generate("m@1", wanted)) == await of(host.generate("m@1", wanted))
        assert host._links.n_requests == 0

    run(check)


@pytest.mark.parametrize(
    ("model", "wanted", "kind"),
    [
        ("other@1", request("a"), ModelChangingError),
        ("m@1", request("a", adapter="x@1"), ModelChangingError),
        ("m@1", request("a", SamplingParams(max_tokens=WINDOW)), ContextLengthError),
    ],
)
def test_what_an_engine_refuses_is_the_same_error(model, wanted, kind):
    async def check(made):
        host = await made.host()
        for ask in (made.line.generate, host.generate):
            with pytest.raises(kind):
                await anext(ask(model, wanted))
        assert await made.ask(request("a"))

    run(check)


def test_many_requests_at_once_keep_their_tokens_apart():
    async def check(made):
        await made.host(n_slots=8, max_queued=64)
        asked = [replace(request(f"r{n}"), prompt_ids=(n % 7, n % 3 + 1)) for n in range(20)]
        found = await asyncio.gather(*map(made.ask, asked))
        alone = [await made.ask(one) for one in asked]
        assert [words(one) for one in found] == [words(one) for one in alone]
        assert all(chunk.request_id == asked[n].request_id for n in range(20) for chunk in found[n])

    run(check)


def test_a_reader_that_leaves_frees_its_slot_at_once():
    async def check(made):
        host = await made.host()
        chunks = await made.begin(request("a", ENDLESS))
        assert n_unfinished(host) == 1
        await chunks.aclose()
        await until(lambda: not n_unfinished(host), 0.5)
        await until(lambda: host._links.n_requests == 0, 0.5)

    run(check)


def test_what_finds_no_place_waits_its_turn_and_too_much_is_told_to_come_back():
    async def check(made):
        await made.host(n_slots=1, max_queued=2)
        holder = await made.begin(request("a", ENDLESS))
        waiting = [asyncio.create_task(made.ask(request(f"w{n}"))) for n in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(OverloadedError, match="waiting line is full"):
            await made.ask(request("b"))
        waiting[1].cancel()  # of the line: its place is free again
        await asyncio.sleep(0.01)
        waiting.append(asyncio.create_task(made.ask(request("c"))))
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in (waiting[0], *waiting[2:]))
        await holder.aclose()
        for task in (waiting[0], *waiting[2:]):
            assert (await task)[-1].finish_reason == "length"

    run(check)


def test_the_line_is_bounded_by_tokens_too():
    async def check(made):
        await made.host(n_slots=1, max_queued=50)
        await until(lambda: bool(made.links.reports()))
        n_tokens = next(iter(made.line.links)).n_tokens
        held = [
            await made.begin(request("a", ENDLESS)),
            asyncio.create_task(made.ask(request("b"))),
        ]
        long = [replace(request(f"w{n}"), prompt_ids=(1,) * (n_tokens - 100)) for n in range(3)]
        waiting = [asyncio.create_task(made.ask(one)) for one in long[:2]]
        await asyncio.sleep(0.05)
        with pytest.raises(OverloadedError):
            await made.ask(long[2])
        short = asyncio.create_task(made.ask(request("s")))
        await asyncio.sleep(0.05)
        assert not short.done()
        for task in (held[1], short, *waiting):
            task.cancel()
        await held[0].aclose()

    run(check)


def test_the_time_in_the_line_counts():
    async def check(made):
        await made.host(n_slots=1)
        held = [await made.begin(request(name, ENDLESS)) for name in "a"]
        second = asyncio.create_task(made.ask(request("b", ENDLESS, deadline_s=0.6)))
        await asyncio.sleep(0.05)
        with pytest.raises(DeadlineError):
            await made.ask(request("c", deadline_s=0.1))
        assert (await second)[-1].finish_reason == "deadline"
        await held[0].aclose()

    run(check)


def test_two_ingresses_share_an_engine_and_one_that_finds_it_full_waits():
    async def check(made):
        host = await made.host(n_slots=1)
        async with ground() as other:
            await other.greet(host)
            await until(lambda: bool(other.line.links))
            held = [
                await made.begin(request("a", ENDLESS)),
                asyncio.create_task(made.ask(request("b", ENDLESS))),
            ]
            await until(lambda: host._links.n_requests == 2)
            late = asyncio.create_task(other.ask(request("c")))
            await asyncio.sleep(0.05)
            assert not late.done()
            held[1].cancel()
            await held[0].aclose()
            assert (await late)[-1].finish_reason == "length"

    run(check)


def test_an_engine_that_dies_ends_what_has_tokens_and_loses_nothing_else():
    async def check(made):
        host = await made.host(n_slots=1)
        running = await made.begin(request("a", ENDLESS))
        queued = asyncio.create_task(made.ask(request("b")))
        in_line = asyncio.create_task(made.ask(request("c")))
        await until(lambda: host._links.n_requests == 2)
        for link in host._links._links.values():
            link.connection._transport.abort()  # as when its process is killed
        with pytest.raises(EngineLostError):
            _ = [chunk async for chunk in running]
        for task in (queued, in_line):  # had no token: `ServeEngineClient` asks again
            with pytest.raises(EngineLostError):
                await task
        await until(lambda: not made.line.links and not n_unfinished(host))
        await made.greet(host)  # and it comes back
        await until(lambda: made.line.is_there)
        assert await made.ask(request("a"))

    run(check)


def test_an_engine_that_leaves_ends_what_it_has_and_takes_nothing_new():
    async def check(made):
        leaving = await made.host()
        running = await made.begin(request("a", SamplingParams(max_tokens=2000, temperature=0)))
        stopping = asyncio.create_task(leaving.stop())
        await until(lambda: not made.line.is_there)
        other = await made.host()
        await made.ask(request("b"))
        assert other._threads["m@1"].stats().generated_tokens == 30
        assert [chunk async for chunk in running][-1].finish_reason == "length"
        await stopping
        await until(lambda: len(made.line.links) == 1)

    run(check)


def test_what_leaves_too_slowly_ends_with_an_error():
    async def check(made):
        host = await made.host(request_timeout_s=0.2)
        running = await made.begin(request("a", ENDLESS))
        await host.stop()
        with pytest.raises(NotRunningError):
            _ = [chunk async for chunk in running]

    run(check)


def test_a_prompt_goes_where_its_beginning_is_and_the_rest_to_the_less_busy():
    async def check(made):
        for _ in range(2):
            await made.host(n_slots=2)
        prompt = (1, 2, 3) * 20
        marks = marks_of("m@1", None, prompt)
        home = home_of(marks[1], [link.name for link in made.line.links])
        asked = [replace(request(f"r{n}", ENDLESS), prompt_ids=prompt) for n in range(2)]
        running = [await made.begin(one) for one in asked]
        by_name = {link.name: link for link in made.line.links}
        assert len(by_name[home]._mailboxes) == 2
        other = choose(made.line.links, marks)
        assert other is not by_name[home], "a home without a free slot is worth less than time"
        assert choose(made.line.links, ()) is other
        for chunks in running:
            await chunks.aclose()
        assert choose(made.line.links, marks) is by_name[home]

    run(check)


def test_what_waits_at_an_ingress_counts_among_an_engines_work():
    async def check(made):
        host = await made.host(n_slots=1, max_queued=9)
        holder = await made.begin(request("a", ENDLESS))
        waiting = [asyncio.create_task(made.ask(request(f"w{n}"))) for n in range(4)]
        # One holds the slot, one waits in the engine and three at the ingress.
        await until(lambda: host.record_autoscaling_stats()["pressure"] == 5.0)
        await holder.aclose()
        await asyncio.gather(*waiting)
        await until(lambda: host.record_autoscaling_stats()["pressure"] == 0.0)

    run(check)


def test_tokens_that_wait_at_an_ingress_count_with_the_pages_that_they_need(monkeypatch):
    monkeypatch.setattr("serve_app.engine_host.REPORT_PERIOD_S", 60.0)

    async def check(made):
        host = await made.host(n_slots=4)
        n_tokens = 16 * host._threads["m@1"].stats().n_pages
        next(iter(made.line.links)).tell_waiting(2, 3 * n_tokens)
        await until(lambda: host.record_autoscaling_stats()["pressure"] == pytest.approx(3.0))

    run(check)


def test_each_ingress_is_told_what_waits_at_all_of_them(monkeypatch):
    monkeypatch.setattr("serve_app.engine_host.REPORT_PERIOD_S", 0.02)

    def waiting(made):
        return [(each.n_waiting, each.waiting_tokens) for each in made.links.reports()]

    async def check(made):
        host = await made.host(n_slots=1, max_queued=9)
        async with ground() as other:
            await other.greet(host)
            await until(lambda: bool(other.line.links))
            holder = await made.begin(request("a", ENDLESS))
            tasks = [asyncio.create_task(made.ask(request("b", ENDLESS)))]
            await until(lambda: host._links.n_requests == 2)
            for name, where in [("c", made), ("d", made), ("e", other)]:
                tasks.append(asyncio.create_task(where.ask(request(name))))
            # One waits in the engine and three at ingresses, with two tokens each.
            for ingress in (made, other):
                await until(lambda: waiting(ingress) == [(4, 8)])  # noqa: B023
            for task in tasks[:-1]:
                task.cancel()
            for ingress in (made, other):
                await until(lambda: waiting(ingress) == [(1, 2)])  # noqa: B023
            await holder.aclose()
            await tasks[-1]
            for ingress in (made, other):
                await until(lambda: waiting(ingress) == [(0, 0)])  # noqa: B023

    run(check)


def test_an_application_that_is_asked_no_more_is_forgotten_with_its_last_engine():
    async def check(made):
        host = await made.host()
        made.links.forget(APP)
        assert APP in made.links._lines, "what was asked comes to its end"
        await host.stop()
        await until(lambda: not made.links._lines and not made.links._links)
        assert made.links.line(APP) is not made.line

    run(check)


def test_reports_go_with_their_connection():
    async def check(made):
        host = await made.host()
        await until(lambda: bool(made.links.reports()))
        assert made.links.reports()[0].model_id == "m@1"
        await host.stop()
        await until(lambda: not made.links.reports())

    run(check)


@pytest.mark.parametrize(
    "said", [b"", b"\n", b"0" * 32 + b"\n{}\n", b"x" * 9000, b"SECRET\n{}\n", b"SECRET\nnonsense\n"]
)
def test_who_does_not_know_the_secret_or_speaks_nonsense_is_hung_up_on(said, monkeypatch):
    monkeypatch.setattr("serve_app.engine_link.GREETING_TIMEOUT_S", 0.2)

    async def check(made):
        await made.host()
        address = await made.links.address(APP)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(said.replace(b"SECRET", address.secret.encode()))
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5.0) == b""
        writer.close()
        assert await made.ask(request("a")), "the others are not disturbed"

    run(check)


def test_nonsense_of_an_engine_ends_its_own_connection_only():
    async def check(made):
        await made.host()
        bad = await made.host()
        for link in list(bad._links._links.values()):
            link.connection.send(b"nonsense\n")
        await until(lambda: len(made.line.links) == 1)
        assert await made.ask(request("a"))

    run(check)


def test_an_ingress_that_is_gone_cannot_be_reached():
    async def check(made):
        host = await made.host()
        async with ground() as gone:
            address = await gone.links.address(APP)
        with pytest.raises(NotRunningError, match="cannot be reached"):
            await host.hello(address)

    run(check)
