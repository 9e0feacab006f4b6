"""Averaging or momentum: by the number of rounds, told with its reason, and not changed later."""

from __future__ import annotations

from pathlib import Path

import pytest

from mulm.train.config import DilocoConfig
from mulm.train.sync.outer_choice import (
    BY_ROUNDS,
    NAME,
    Measured,
    OuterChoice,
    choose_outer,
    remembered_outer,
)
from mulm.train.sync.outer_step import Outer

AUTO = DilocoConfig()
OTHERS = (Measured(10, 2.0, 2.5), Measured(300, 1.5, 1.4), Measured(600, 1.3, 1.2))
"""As they would be if momentum paid in long runs."""


@pytest.mark.parametrize(
    ("n_rounds", "kind"), [(3, "average"), (299.9, "average"), (300, "nesterov"), (1e4, "nesterov")]
)
def test_the_better_one_at_as_many_rounds_is_taken(n_rounds: float, kind: Outer) -> None:
    assert choose_outer(AUTO, n_rounds, OTHERS).kind == kind


def test_by_what_was_measured_it_is_averaging_and_the_reason_has_the_numbers() -> None:
    assert [row.better for row in BY_ROUNDS] == ["average"] * len(BY_ROUNDS)
    choice = choose_outer(AUTO, 57.3)
    assert choice.kind == "average"
    assert "in runs of 40 it had 2.08 nats, the other outer step 2.44" in choice.reason
    assert choice.text.startswith("the shared weights move by plain averaging: about 57 rounds")


def test_where_nobody_knows_how_many_it_says_so() -> None:
    choice = choose_outer(AUTO, None)
    assert choice.kind == "average"
    assert "not known beforehand" in choice.reason


@pytest.mark.parametrize("kind", ["average", "nesterov"])
def test_what_the_config_asks_for_is_taken(kind: Outer) -> None:
    choice = choose_outer(DilocoConfig(outer=kind), 5)
    assert choice == OuterChoice(kind, "the config asks for it")


def test_a_run_that_is_gone_on_with_keeps_what_it_began_with(tmp_path: Path) -> None:
    folder = tmp_path / "rounds"
    first = OuterChoice("nesterov", "of many rounds")
    assert remembered_outer(folder, first) == first
    later = remembered_outer(folder, OuterChoice("average", "of the few that are left"))
    assert later == OuterChoice("nesterov", "the run began with it")


def test_a_damaged_memory_is_told_and_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(b"\xffverage")
    choice = OuterChoice("average", "of few rounds")
    assert remembered_outer(tmp_path, choice) == choice
    assert "is damaged" in caplog.text
    assert (tmp_path / NAME).read_text() == "average\n"
