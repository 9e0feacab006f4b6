"""Room for more workers is seen when it stays."""

from __future__ import annotations

from ray.exceptions import RpcError

from jobs.growth import FIRST_S, LOOK_S, STEADY_LOOKS, Growth


class Cluster:
    """So much room, on a clock that is turned by hand."""

    def __init__(self) -> None:
        self.time_s, self.n_free, self.is_away = 0.0, 0, False

    def count(self) -> int:
        if self.is_away:
            raise RpcError("away")
        return self.n_free

    def due_in(self, growth: Growth, seconds: int) -> float | None:
        """When it was due, second by second."""
        for _ in range(seconds):
            self.time_s += 1.0
            if growth.is_due():
                return self.time_s
        return None


def test_room_that_stays_is_used_after_a_while() -> None:
    cluster = Cluster()
    growth = Growth(cluster.count, 0, lambda: cluster.time_s)
    cluster.n_free = 1
    cluster.time_s = begun_s = 5000.0  # what came before the group's start does not count
    assert not growth.is_due()
    due_s = cluster.due_in(growth, 500)
    assert due_s == begun_s + FIRST_S + (STEADY_LOOKS - 1) * LOOK_S
    again_s = cluster.due_in(growth, 500)
    assert again_s is not None, "what was not heard is asked again"
    assert again_s >= due_s + FIRST_S


def test_room_that_was_left_before_or_goes_again_is_none() -> None:
    cluster = Cluster()
    growth = Growth(cluster.count, 1, lambda: cluster.time_s)
    cluster.n_free = 1
    assert cluster.due_in(growth, 500) is None
    cluster.n_free = 2
    assert cluster.due_in(growth, int(LOOK_S)) is None
    cluster.n_free = 1
    assert cluster.due_in(growth, 100) is None


def test_a_cluster_that_does_not_answer_changes_nothing() -> None:
    cluster = Cluster()
    growth = Growth(cluster.count, 0, lambda: cluster.time_s)
    cluster.n_free, cluster.is_away = 1, True
    assert cluster.due_in(growth, 500) is None
