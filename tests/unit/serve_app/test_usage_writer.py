from __future__ import annotations

import asyncio
import threading
import time

import pytest

from mulm.accounts import UsageRow
from mulm.errors import NotRunningError
from mulm.ledger import Ledger
from serve_app.usage_writer import UsageWriter

NOW_S = 7200.0 + 10


class Flaky:
    """A ledger that can be away, or take a batch and lose its answer."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.is_away = self.loses_answers = False

    def write(self, writer, seq, rows):
        if self.is_away:
            raise NotRunningError("gone")
        told = self.ledger.add_usage(writer, seq, rows)
        if self.loses_answers:
            raise NotRunningError("lost")
        return told


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as facts:
        yield facts


@pytest.fixture
def flaky(ledger):
    return Flaky(ledger)


def test_what_is_counted_is_written_by_key_model_and_hour(ledger, flaky):
    now_s = [NOW_S]

    async def check():
        writer = UsageWriter(flaky.write, lambda: now_s[0])
        assert writer.spent("key_1") is None
        writer.note("key_1", "a", 10, 2)
        writer.note("key_1", "a", 1, 1)
        writer.note("key_2", "b", 5, 0)
        now_s[0] += 3600
        writer.note("key_1", "a", 7, 0)
        assert await writer.flush()
        assert writer.spent("key_1") == 21
        assert writer.spent("key_3") == 0

    asyncio.run(check())
    assert ledger.usage() == [
        UsageRow("key_1", "a", 7200, 2, 11, 3),
        UsageRow("key_2", "b", 7200, 1, 5, 0),
        UsageRow("key_1", "a", 10800, 1, 7, 0),
    ]


def test_an_answer_that_was_lost_counts_nothing_twice_and_an_absence_nothing_less(ledger, flaky):
    async def check():
        writer = UsageWriter(flaky.write, lambda: NOW_S)
        await writer.flush()
        writer.note("key_1", "a", 10, 0)
        flaky.loses_answers = True
        for _ in range(3):
            assert not await writer.flush()
            writer.note("key_1", "a", 1, 0)
        assert writer.spent("key_1") == 13
        flaky.loses_answers, flaky.is_away = False, True
        assert not await writer.flush()
        flaky.is_away = False
        assert await writer.flush()
        assert await writer.flush()
        assert writer.spent("key_1") == 13

    asyncio.run(check())
    [row] = ledger.usage()
    assert (row.requests, row.tokens) == (4, 13)


def test_two_ingresses_hear_of_each_others_tokens(flaky):
    async def check():
        one, two = UsageWriter(flaky.write), UsageWriter(flaky.write)
        one.note("key_1", "a", 10, 0)
        await one.flush()
        two.note("key_1", "a", 5, 0)
        await two.flush()
        assert (one.spent("key_1"), two.spent("key_1")) == (10, 15)
        await one.flush()
        assert one.spent("key_1") == 15

    asyncio.run(check())


def test_it_writes_by_itself_and_the_rest_when_it_stops(ledger, flaky):
    async def check():
        writer = UsageWriter(flaky.write, period_s=0.01)
        writer.start()
        writer.start()
        writer.note("key_1", "a", 1, 0)
        await asyncio.sleep(0.3)
        assert sum(row.requests for row in ledger.usage()) == 1
        writer.note("key_1", "a", 1, 0)
        await writer.stop()

    asyncio.run(check())
    assert sum(row.requests for row in ledger.usage()) == 2


def test_a_ledger_that_hangs_holds_up_no_request():
    may_go = threading.Event()

    def write(_writer, _seq, _rows):
        may_go.wait(20)
        return {}

    async def check():
        writer = UsageWriter(write, period_s=0.01)
        writer.start()
        await asyncio.sleep(0.05)
        begun_s = time.monotonic()
        for _ in range(1000):
            writer.note("key_1", "a", 1, 1)
        assert time.monotonic() - begun_s < 10  # the ledger hangs for 20
        may_go.set()
        await writer.stop()
        assert writer.spent("key_1") == 0, "this ledger has told so"

    asyncio.run(check())


def test_a_crash_costs_what_was_counted_since_the_last_writing(ledger, flaky):
    async def check():
        writer = UsageWriter(flaky.write, period_s=0.05)
        writer.start()
        for _ in range(20):
            writer.note("key_1", "a", 1, 0)
            await asyncio.sleep(0.02)
        # Killed here: the loop ends, nothing is flushed.

    asyncio.run(check())
    assert sum(row.requests for row in ledger.usage()) >= 10
