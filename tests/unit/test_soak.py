"""What the soak is to notice is noticed."""

from __future__ import annotations

import asyncio
import json
import random
import threading

import httpx
import pytest

from benchmarks import soak
from benchmarks.soak_app import Application, Weights
from benchmarks.soak_clients import Life, be_client, give_up, leave, stream, whole
from mulm.model.config import MicroLMConfig
from mulm.testing import TINY, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CONFIG = MicroLMConfig.model_validate(
    TINY.model_dump() | {"vocab_size": TOKENIZER.vocab_size, "max_seq_len": 512}
)
SEEDS = {"one": 0, "two": 1}


class PlainWeights(Weights):
    """For which nothing is compiled."""

    def open(self, name):
        return tiny_model(config=self.config, seed=self.seeds[name]).requires_grad_(False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return PlainWeights(tmp_path_factory.mktemp("kernels"), CONFIG, SEEDS)


@pytest.fixture
def application(weights):
    under_test = Application(weights, TOKENIZER)
    yield under_test
    under_test.stop()


@pytest.fixture
def life():
    """That expects one text of every order, from either model."""
    under_test = Life({}, TOKENIZER)
    under_test.orders = [{"prompt": [70], "max_tokens": 4, "n": 1}] * len(under_test.orders)
    under_test.expected = {name: [["text"]] * len(under_test.orders) for name in SEEDS}
    return under_test


def threads_of(application):
    return list(application._host._threads.values())


def test_alias_and_weights_change_while_clients_are_answered(weights, application):
    life = Life({}, TOKENIZER)
    is_over = threading.Event()

    async def check():
        clients = [
            asyncio.create_task(be_client(life, application.port, number, is_over.is_set))
            for number in range(3)
        ]
        for act in (application.swap, application.move_on, application.swap, application.look):
            await asyncio.to_thread(act)
        is_over.set()
        await asyncio.gather(*clients)

    asyncio.run(check())
    assert application.n_moves == 1
    assert application.n_swaps >= 2, "of both models, where the first has not gone yet"
    application.rest()
    assert not application.wrong
    # This one expects no answer, so each of them is noted, and nothing else.
    assert all(line.startswith("order ") for line in life.wrong)
    assert life.seen["read"] == life.wrong.total()


@pytest.mark.parametrize("is_idle", [False, True])
def test_an_engine_whose_books_do_not_add_up_is_noticed(application, is_idle):
    (thread,) = threads_of(application)
    application.call(thread.act(lambda engine: engine._scheduler.pages._free.pop()))
    (application.rest if is_idle else application.look)()
    assert any("pages leaked" in line for line in application.wrong)


def test_pages_that_an_idle_engine_holds_are_noticed(application):
    def hold_pages(engine):
        engine._scheduler.pages.allocate(2)
        engine.check_integrity = lambda: None

    (thread,) = threads_of(application)
    application.call(thread.act(hold_pages))
    application.rest()
    assert list(application.wrong) == ["2 pages of an idle engine"]


def asked(life, way, answer):
    """What one way of asking makes of an answer."""

    async def ask():
        transport = httpx.MockTransport(lambda _request: answer)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            await way(life, client, random.Random(0))

    asyncio.run(ask())
    return list(life.wrong)


def events(*said, mark="data: [DONE]\n\n"):
    lines = [f"data: {json.dumps(each)}\n\n" for each in said]
    return httpx.Response(200, text="".join(lines) + mark)


TOLD = {"system_fingerprint": "one", "choices": [{"index": 0, "text": "text"}]}


def test_what_is_expected_is_not_wrong(life):
    assert not asked(life, whole, httpx.Response(200, json=TOLD))
    assert not asked(life, stream, events(TOLD))
    assert not asked(life, stream, httpx.Response(503, headers={"retry-after": "1"}))
    assert life.seen == {"read": 2, "told to come back": 1}


@pytest.mark.parametrize("way", [whole, stream, leave, give_up])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_error_is_wrong_but_to_be_told_to_come_back_later(life, way, status):
    assert asked(life, way, httpx.Response(status)) == [f"status {status}"]


@pytest.mark.parametrize("way", [stream, leave])
def test_an_event_that_is_an_error_is_wrong(life, way):
    wrong = asked(life, way, events({"error": {"code": "internal"}}, mark=""))
    assert wrong[0] == "an event: {'code': 'internal'}"


def test_a_stream_that_ends_without_its_mark_is_wrong(life):
    assert "without its mark" in asked(life, stream, events(TOLD, mark=""))[0]


def test_another_text_or_weights_that_nobody_has_are_wrong(life):
    other = TOLD | {"choices": [{"index": 0, "text": "other"}]}
    assert asked(life, stream, events(other))[0].endswith("of one")
    assert asked(life, stream, events(TOLD | {"system_fingerprint": "x"}))[1].endswith("of x")


@pytest.mark.parametrize("wrong", [{}, {"memory grew by 99 MB": 1}])
def test_its_exit_code_says_whether_anything_was_wrong(monkeypatch, capsys, wrong):
    monkeypatch.setattr("sys.argv", ["soak", "--minutes", "1"])
    monkeypatch.setattr(soak, "run", lambda *_: {"wrong": wrong})
    with pytest.raises(SystemExit) as ended:
        soak.main()
    assert ended.value.code == bool(wrong)
    assert json.loads(capsys.readouterr().out) == {"wrong": wrong}


def test_memory_that_grows_and_errors_of_the_log_are_wrong(monkeypatch, weights):
    sizes = iter((100.0, 100.0 + soak.MOST_GROWN_MB + 1))

    def lived(*_):
        soak.logging.getLogger("somewhere").error("something broke")
        return next(sizes)

    monkeypatch.setattr(soak, "_lived", lived)
    monkeypatch.setattr(soak, "Weights", lambda *_: weights)
    monkeypatch.setattr(soak, "Life", lambda *_: Life({}, TOKENIZER))
    told = soak.run(None, 60.0)
    assert told["wrong"] == {
        "log: something broke": 2, "memory grew by 33.0 MB": 1, "no answer was read": 1,
    }  # fmt: skip
