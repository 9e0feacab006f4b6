"""The short part of the fault suite: one kill above and one below everything, on a real cluster.

`make chaos` has all cases (`benchmarks.chaos`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.chaos import kills
from benchmarks.chaos.__main__ import CASES
from benchmarks.chaos.case import Case, Outcome, draw_of
from benchmarks.chaos.world import World, running_world

pytestmark = pytest.mark.cluster

SHORT = ("kill-engine", "kill-gcs")
SEED = 1
PATIENCE_S = 110.0
"""On a machine that other tests keep busy it takes a minute; `make chaos` itself asks for 30 s."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.mark.parametrize("case", [c for c in CASES if c.name in SHORT], ids=lambda case: case.name)
def test_what_was_acknowledged_is_there_and_all_answers_again(
    world: World, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kills, "ANSWERS_WITHIN_S", PATIENCE_S)
    outcome = Outcome()
    case.run(world, draw_of(SEED, case.name), outcome)
    assert not outcome.wrong, (outcome, f"repeat it: make chaos ARGS='--case {case.name}'")
