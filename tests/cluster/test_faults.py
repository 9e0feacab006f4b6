"""The short part of the fault suite: one kill above and one below everything.

On the cluster that all tests share: those that follow run on what has come back.
`make chaos` has all cases (`benchmarks.chaos`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.chaos import kills
from benchmarks.chaos.__main__ import CASES
from benchmarks.chaos.case import Case, Outcome, draw_of
from benchmarks.chaos.world import SERVED, World, served_args
from jobs.keeper import with_its_ports
from jobs.serve_model import serve_model

pytestmark = pytest.mark.cluster

SHORT = ("kill-engine", "kill-gcs")
SEED = 1
PATIENCE_S = 110.0
"""On a machine that other tests keep busy it takes a minute; `make chaos` itself asks for 30 s."""


@pytest.fixture(scope="module")
def world(cluster) -> Iterator[World]:
    made = World(cluster.home, with_its_ports(cluster.settings, cluster.info))
    made.stock()
    serve_model(cluster.info, served_args(), home=cluster.home)
    yield made
    made.call("DELETE", f"/api/v1/deployments/{SERVED}")


@pytest.mark.parametrize("case", [c for c in CASES if c.name in SHORT], ids=lambda case: case.name)
def test_what_was_acknowledged_is_there_and_all_answers_again(
    world: World, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kills, "ANSWERS_WITHIN_S", PATIENCE_S)
    outcome = Outcome()
    case.run(world, draw_of(SEED, case.name), outcome)
    assert not outcome.wrong, (outcome, f"repeat it: make chaos ARGS='--case {case.name}'")
