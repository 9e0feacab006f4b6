from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mulm.errors import ConflictError, DeadlineError
from mulm.ledger import Ledger
from mulm.records import ANSWERS_KEPT_S, Claim, KeptAnswer


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
    assert ledger.claim_answer(Claim("key_1", "k", "mine"), "d", 10) is None
    assert ledger.claim_answer(Claim("key_1", "k", "mine"), "d", 10) is None, "cut off, said again"
    assert ledger.claim_answer(Claim("key_1", "k", "other"), "e", 10) == KeptAnswer(
        "d", None, {}, None
    )
    assert ledger.claim_answer(Claim("key_2", "k", "other"), "e", 10) is None, "another's key"
    with pytest.raises(DeadlineError):
        ledger.keep_answer(Claim("key_1", "k", "other"), 500, {}, "not its claim")
    ledger.keep_answer(Claim("key_1", "k", "mine"), 201, {"location": "/x"}, "{}")
    kept = KeptAnswer("d", 201, {"location": "/x"}, "{}")
    assert ledger.claim_answer(Claim("key_1", "k", "third"), "d", 10) == kept
    ledger.drop_claim(Claim("key_1", "k", "mine"))
    assert ledger.claim_answer(Claim("key_1", "k", "third"), "d", 10) == kept, (
        "answered is answered"
    )


def test_what_came_to_nothing_or_was_killed_may_be_begun_again(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.claim_answer(Claim("key_1", "k", "first"), "d", 10)
    ledger.drop_claim(Claim("key_1", "k", "first"))
    assert ledger.claim_answer(Claim("key_1", "k", "second"), "e", 10) is None
    clock.now_s += 9.9
    assert ledger.claim_answer(Claim("key_1", "k", "third"), "e", 10) is not None
    clock.now_s += 0.2
    assert ledger.claim_answer(Claim("key_1", "k", "third"), "f", 10) is None, "nothing was made"
    with pytest.raises(DeadlineError, match="taken over"):
        ledger.keep_answer(Claim("key_1", "k", "second"), 201, {}, "late")
    ledger.keep_answer(Claim("key_1", "k", "third"), 201, {}, "in time")
    clock.now_s += ANSWERS_KEPT_S - 1
    found = ledger.claim_answer(Claim("key_1", "k", "fourth"), "e", 10)
    assert found is not None
    assert found.body == "in time"
    clock.now_s += 2
    assert ledger.claim_answer(Claim("key_1", "k", "fourth"), "e", 10) is None, "a day is over"


SHA = "0" * 64
MAKERS: dict[str, Any] = {
    "run": lambda ledger, claim: ledger.create_run("run_1", "train", {}, claim).id,
    "file": lambda ledger, claim: ledger.add_file("file_1", "a", "batch", 1, SHA, claim).id,
    "key": lambda ledger, claim: ledger.add_key("key_9", SHA, "friend", claim=claim).id,
    "deployment": lambda ledger, claim: (
        ledger.set_deployment("pet", {"args": {}}, "made", 0, {}, claim) and "pet"
    ),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_was_made_is_told_to_whoever_takes_over(ledger: Ledger, clock: Clock, make) -> None:
    killed, heir = Claim("key_1", "k", "killed"), Claim("key_1", "k", "heir")
    assert ledger.claim_answer(killed, "d", 10) is None
    made = make(ledger, killed)
    assert make(ledger, killed) == made, "a call that was cut off is made again"
    told = KeptAnswer("d", None, {}, None, made)
    assert ledger.claim_answer(heir, "d", 10) == told, "until its time is over"
    clock.now_s += 11
    for _ in range(2):  # the second is the first call, made again
        assert ledger.claim_answer(heir, "d", 10) == replace(told, is_mine=True)
    assert ledger.claim_answer(Claim("key_1", "k", "third"), "d", 10) == told
    with pytest.raises(DeadlineError):
        make(ledger, killed)
    ledger.keep_answer(heir, 201, {}, "{}")
    assert ledger.claim_answer(killed, "d", 10) == KeptAnswer("d", 201, {}, "{}")


def test_what_was_not_made_since_others_changed_is_not_taken_for_made(ledger: Ledger) -> None:
    claim = Claim("key_1", "k", "mine")
    ledger.claim_answer(claim, "d", 10)
    assert ledger.set_deployment("pet", {"a": 1}, "made", 0, {"other": 3}, claim) is None
    assert ledger.deployments() == []
    ledger.set_deployment("pet", {"a": 2}, "somebody's")
    with pytest.raises(ConflictError):
        ledger.set_deployment("pet", {"a": 1}, "made", 0, {}, claim)
    ledger.drop_claim(claim)
    assert ledger.claim_answer(Claim("key_1", "k", "next"), "e", 10) is None, "nothing was made"


def test_a_key_is_that_of_the_request_that_made_something(ledger: Ledger, clock: Clock) -> None:
    ledger.claim_answer(Claim("key_1", "k", "first"), "d", 10)
    ledger.create_run("run_1", "train", {}, Claim("key_1", "k", "first"))
    clock.now_s += 11
    found = ledger.claim_answer(Claim("key_1", "k", "other"), "e", 10)
    assert found == KeptAnswer("d", None, {}, None, "run_1")


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_under_a_claim_that_has_passed_on_nothing_is_made(
    ledger: Ledger, clock: Clock, make
) -> None:
    slow = Claim("key_1", "k", "slow")
    ledger.claim_answer(slow, "d", 10)
    clock.now_s += 11
    assert ledger.claim_answer(Claim("key_1", "k", "heir"), "d", 10) is None
    with pytest.raises(DeadlineError):
        make(ledger, slow)
    assert ledger.runs() + ledger.files() + ledger.valid_keys() + ledger.deployments() == []


def test_work_that_failed_behind_what_it_made_is_finished_by_the_next(ledger: Ledger) -> None:
    failed = Claim("key_1", "k", "failed")
    ledger.claim_answer(failed, "d", 10)
    ledger.create_run("run_1", "train", {}, failed)
    ledger.drop_claim(failed)
    found = ledger.claim_answer(Claim("key_1", "k", "next"), "d", 10)
    assert found == KeptAnswer("d", None, {}, None, "run_1", is_mine=True)


def test_of_many_at_once_one_begins(ledger: Ledger) -> None:
    def claim(number: int) -> bool:
        return ledger.claim_answer(Claim("key_1", "k", str(number)), "d", 10) is None

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
        assert ledger.claim_answer(Claim("key_1", "k", "mine"), "d", 10) is None


def test_a_claim_from_before_the_clock_was_set_back_ends_too(ledger: Ledger, clock: Clock) -> None:
    assert ledger.claim_answer(Claim("key_1", "k", "killed"), "d", 10) is None
    clock.now_s -= 5.0  # a small step: whoever works goes on
    assert ledger.claim_answer(Claim("key_1", "k", "again"), "d", 10) is not None
    clock.now_s -= 86_400.0
    assert ledger.claim_answer(Claim("key_1", "k", "again"), "d", 10) is None
    ledger.keep_answer(Claim("key_1", "k", "again"), 201, {}, "{}")
    clock.now_s -= 86_400.0
    assert ledger.claim_answer(Claim("key_1", "k", "third"), "d", 10) == KeptAnswer(
        "d", 201, {}, "{}"
    )


_KILLED = """
import os, signal, sys
from pathlib import Path
from mulm.ledger import Ledger
from mulm.records import Claim

ledger, mine = Ledger(Path(sys.argv[1])), Claim("key_1", "k", "killed")
ledger.claim_answer(mine, "d", 0.0)
if sys.argv[2] == "behind":
    ledger.create_run("run_1", "train", {}, mine)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_process_that_is_killed_leaves_the_work_to_the_next(tmp_path: Path, when: str) -> None:
    path = tmp_path / "ledger.sqlite"
    command = [sys.executable, "-c", _KILLED, str(path), when]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with Ledger(path) as ledger:
        found = ledger.claim_answer(Claim("key_1", "k", "next"), "d", 10)
        made = [run.id for run in ledger.runs()]
    if when == "before":
        assert (found, made) == (None, [])
    else:
        assert (found.made, found.is_mine, made) == ("run_1", True, ["run_1"])
