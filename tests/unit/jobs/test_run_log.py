from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from actors.run_desk import RunDesk, open_desk
from jobs.run_log import run_log
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.run_lock import run_lock


@pytest.fixture
def ledger(home: Home) -> Iterator[Ledger]:
    with Ledger(home.ledger) as ledger:
        ledger.create_run("run_a", "train", {})
        ledger.append_events("run_a", [("log", {"n": 1}), ("metric", {"step": 1})])
        yield ledger


@pytest.fixture
def desk(home: Home) -> Iterator[RunDesk]:
    with open_desk(home) as desk:
        yield desk


def numbers(events: Iterator[Any]) -> list[Any]:
    return [event.data.get("n", event.kind) for event in events]


def test_what_is_there_is_told_and_cut(ledger: Ledger, desk: RunDesk) -> None:
    ledger.append_events("run_a", [("log", {"n": n}) for n in range(2, 5)])
    assert numbers(run_log(desk, "run_a", None, follow=False)) == [1, 2, 3, 4]
    assert numbers(run_log(desk, "run_a", 2, follow=False)) == [3, 4]
    assert numbers(run_log(desk, "run_a", 0, follow=False)) == []
    assert numbers(run_log(desk, "run_a", None, False, with_all=True)) == [1, "metric", 2, 3, 4]


def test_following_ends_with_the_run_and_leaves_nothing_out(
    ledger: Ledger, desk: RunDesk, home: Home
) -> None:
    lock = run_lock(home, "run_a")
    lock.__enter__()
    ledger.set_phase("run_a", "running")
    steps: list[Callable[[], Any]] = [
        lambda: ledger.append_events("run_a", [("log", {"n": 2}), ("metric", {"step": 2})]),
        lambda: ledger.append_events("run_a", [("log", {"n": 3})]),
        lambda: ledger.set_phase("run_a", "paused"),
        lambda: ledger.append_events("run_a", [("log", {"n": "last words"})]),
        lambda: lock.__exit__(None, None, None),
    ]

    def sleep(_: float) -> None:
        if steps:
            steps.pop(0)()

    told = numbers(run_log(desk, "run_a", 0, follow=True, sleep=sleep))
    assert told == [2, 3, "phase", "last words"]


def test_a_dead_process_is_not_followed_for_ever(ledger: Ledger, desk: RunDesk) -> None:
    ledger.set_phase("run_a", "running")
    assert numbers(run_log(desk, "run_a", None, follow=True)) == [1, "phase"]


def test_with_limit_nothing_of_before_is_told_while_following(
    ledger: Ledger, desk: RunDesk
) -> None:
    ledger.append_events("run_a", [("log", {"n": 2})])
    assert numbers(run_log(desk, "run_a", 1, follow=True)) == [2]
