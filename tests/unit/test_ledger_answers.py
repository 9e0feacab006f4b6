from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mulm.ledger import Ledger
from mulm.records import ANSWERS_KEPT_S, KeptAnswer


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite", clock) as ledger:
        yield ledger


def test_one_works_and_others_see_what_it_answered(ledger: Ledger) -> None:
    assert ledger.claim_answer("key_1", "k", "d", "mine", 10) is None
    assert ledger.claim_answer("key_1", "k", "d", "mine", 10) is None, "cut off, said again"
    assert ledger.claim_answer("key_1", "k", "e", "other", 10) == KeptAnswer("d", None, {}, None)
    assert ledger.claim_answer("key_2", "k", "e", "other", 10) is None, "another's key"
    ledger.keep_answer("key_1", "k", "other", 500, {}, "not its claim")
    ledger.keep_answer("key_1", "k", "mine", 201, {"location": "/x"}, "{}")
    kept = KeptAnswer("d", 201, {"location": "/x"}, "{}")
    assert ledger.claim_answer("key_1", "k", "d", "third", 10) == kept
    ledger.drop_claim("key_1", "k", "mine")
    assert ledger.claim_answer("key_1", "k", "d", "third", 10) == kept, "answered is answered"


def test_what_came_to_nothing_or_was_killed_may_be_begun_again(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.claim_answer("key_1", "k", "d", "first", 10)
    ledger.drop_claim("key_1", "k", "first")
    assert ledger.claim_answer("key_1", "k", "e", "second", 10) is None
    clock.now_s += 9.9
    assert ledger.claim_answer("key_1", "k", "e", "third", 10) is not None
    clock.now_s += 0.2
    assert ledger.claim_answer("key_1", "k", "e", "third", 10) is None
    ledger.keep_answer("key_1", "k", "second", 201, {}, "late")
    ledger.keep_answer("key_1", "k", "third", 201, {}, "in time")
    clock.now_s += ANSWERS_KEPT_S - 1
    found = ledger.claim_answer("key_1", "k", "e", "fourth", 10)
    assert found is not None
    assert found.body == "in time"
    clock.now_s += 2
    assert ledger.claim_answer("key_1", "k", "e", "fourth", 10) is None, "a day is over"


def test_of_many_at_once_one_begins(ledger: Ledger) -> None:
    def claim(number: int) -> bool:
        return ledger.claim_answer("key_1", "k", "d", str(number), 10) is None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(40))) == 1


def test_a_database_from_before_answers_opens(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    with sqlite3.connect(path) as old:
        old.execute("DROP TABLE answers")
        old.execute("PRAGMA user_version = 0")
    old.close()
    with Ledger(path) as ledger:
        assert ledger.claim_answer("key_1", "k", "d", "mine", 10) is None


def test_a_claim_from_before_the_clock_was_set_back_ends_too(ledger: Ledger, clock: Clock) -> None:
    assert ledger.claim_answer("key_1", "k", "d", "killed", 10) is None
    clock.now_s -= 5.0  # a small step: whoever works goes on
    assert ledger.claim_answer("key_1", "k", "d", "again", 10) is not None
    clock.now_s -= 86_400.0
    assert ledger.claim_answer("key_1", "k", "d", "again", 10) is None
    ledger.keep_answer("key_1", "k", "again", 201, {}, "{}")
    clock.now_s -= 86_400.0
    assert ledger.claim_answer("key_1", "k", "d", "third", 10) == KeptAnswer("d", 201, {}, "{}")
