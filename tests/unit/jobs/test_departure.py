"""What a machine that goes has under way."""

from __future__ import annotations

import pytest

from jobs.departure import work_in


@pytest.mark.parametrize(
    ("titles", "told"),
    [
        ([], ""),
        (["ray::IDLE", "/x/raylet --y", "ray::DashboardAgent", "python ray::IslandWorker"], ""),
        (["ray::IslandWorker.run"], "training"),
        (["ray::IslandWorker", "ray::RayTrainWorker.execute"], "2 x training"),
        (["ray::ServeReplica:demo:Engine", "ray::IslandWorker"], "engine of demo, training"),
    ],
)
def test_training_and_engines_are_waited_for_and_nothing_else(titles: list[str], told: str) -> None:
    assert work_in(titles) == told
