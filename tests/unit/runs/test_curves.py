from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mulm.home import Home
from mulm.ledger import Ledger
from mulm.records import Event
from mulm.runs.curve import curve
from mulm.runs.curves import MAX_RUNS, Curves
from mulm.runs.digest import all_events


class Counting(Ledger):
    """Counts the events that are read."""

    n_read = 0

    def events(
        self, run_id: str, after: int = 0, limit: int = 1000, kinds: Collection[str] = ()
    ) -> list[Event]:
        found = super().events(run_id, after, limit, kinds)
        self.n_read += len(found)
        return found


@pytest.fixture
def facts(home: Home) -> Any:
    ledger = Counting(home.ledger)
    yield ledger
    ledger.close()


def measured(facts: Ledger, run_id: str, *steps: int, loss: float = 1.0) -> None:
    facts.append_events(run_id, [("metric", {"step": step, "loss": loss}) for step in steps])
    facts.append_events(run_id, [("log", {"step": 1, "text": "x"})])


def test_it_is_the_curve_and_only_what_is_new_is_read(facts: Counting) -> None:
    facts.create_run("run_a", "train", {})
    measured(facts, "run_a", *range(2500))
    curves = Curves(facts)
    assert curves.of("run_a") == curve(all_events(facts, "run_a", "metric"))
    measured(facts, "run_a", 2499, 7, 2500, loss=0.5)  # two of them were done again
    facts.n_read = 0
    rows = curves.of("run_a")
    assert facts.n_read == 3
    assert rows == curve(all_events(facts, "run_a", "metric"))
    assert (len(rows), rows[7]["loss"], rows[-1]) == (2501, 0.5, {"step": 2500, "loss": 0.5})


def test_what_was_given_out_does_not_change(facts: Counting) -> None:
    facts.create_run("run_a", "train", {})
    measured(facts, "run_a", 1)
    curves = Curves(facts)
    before = curves.of("run_a")
    facts.append_events("run_a", [("metric", {"step": 1, "validation_bits_per_byte": 2.0})])
    assert before == [{"step": 1, "loss": 1.0}]
    assert curves.of("run_a") == [{"step": 1, "loss": 1.0, "validation_bits_per_byte": 2.0}]
    assert before == [{"step": 1, "loss": 1.0}]


def test_the_runs_that_were_asked_for_last_are_kept(facts: Counting) -> None:
    for name in ("run_a", "run_b", "run_c"):
        facts.create_run(name, "train", {})
        measured(facts, name, *range(10))
    curves = Curves(facts, max_rows=20)
    for name in ("run_a", "run_b", "run_a", "run_c"):
        curves.of(name)
    facts.n_read = 0
    curves.of("run_a")
    curves.of("run_c")
    assert facts.n_read == 0
    assert len(curves.of("run_b")) == 10
    assert facts.n_read == 10


def test_a_run_that_is_too_long_pushes_no_other_out(facts: Counting) -> None:
    for name, n_steps in (("run_a", 10), ("run_b", 21)):
        facts.create_run(name, "train", {})
        measured(facts, name, *range(n_steps))
    curves = Curves(facts, max_rows=20)
    curves.of("run_a")
    assert len(curves.of("run_b")) == 21
    facts.n_read = 0
    curves.of("run_a")
    assert facts.n_read == 0
    assert len(curves.of("run_b")) == 21


def test_runs_without_numbers_are_not_kept_for_ever(facts: Counting) -> None:
    facts.create_run("run_a", "train", {})
    measured(facts, "run_a", 1)
    curves = Curves(facts)
    curves.of("run_a")
    for n in range(MAX_RUNS):
        assert curves.of(f"run_{n}") == []
    facts.n_read = 0
    curves.of("run_a")
    assert facts.n_read == 1


def test_many_ask_at_once(facts: Counting) -> None:
    facts.create_run("run_a", "train", {})
    measured(facts, "run_a", *range(3000))
    curves = Curves(facts)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: curves.of("run_a"), range(32)))
    assert facts.n_read == 3000
    assert all(rows == found[0] for rows in found)
