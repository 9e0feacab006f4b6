"""Kills while clients create over the API: nothing that was acknowledged is lost or done twice.

On the cluster that all tests share; `make chaos` has the same cases (`benchmarks.chaos.creates`).
"""

from __future__ import annotations

import pytest

from benchmarks.chaos.case import Case, Outcome, draw_of
from benchmarks.chaos.creates import CASES
from benchmarks.chaos.world import World

pytestmark = pytest.mark.cluster

SEED = 1


@pytest.fixture(scope="module")
def world(cluster) -> World:
    made = World(cluster.home, cluster.settings)
    made.stock()
    return made


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_was_acknowledged_is_there_once_and_goes_on(world: World, case: Case) -> None:
    outcome = Outcome()
    case.run(world, draw_of(SEED, case.name), outcome)
    assert not outcome.wrong, (outcome, f"repeat it: make chaos ARGS='--case {case.name}'")
