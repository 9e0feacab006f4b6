from __future__ import annotations

from typing import cast

import pytest

from jobs.fleet import Fleet
from jobs.train_islands import _wait_for_others
from mulm.errors import JobFailedError


class Remaining:
    """Two islands that hand in, the second at the second look."""

    def __init__(self, *, has_aggregator: bool = True) -> None:
        self.islands = ["a", "b"]
        self.n_followed = 0
        self._has_aggregator = has_aggregator

    def look(self) -> None:
        self.islands.pop()

    def follow_outer(self) -> None:
        self.n_followed += 1
        if not self._has_aggregator:
            raise JobFailedError("the aggregator has died and cannot begin again")


def wait_for(remaining: Remaining) -> None:
    _wait_for_others(cast("Fleet", remaining), 30.0)


def test_islands_that_hand_in_are_told_where_the_aggregator_is() -> None:
    remaining = Remaining()
    wait_for(remaining)
    assert (remaining.islands, remaining.n_followed) == ([], 2)


def test_they_are_not_waited_for_where_it_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    remaining = Remaining(has_aggregator=False)
    wait_for(remaining)
    assert remaining.islands == ["a"]
    assert "cannot begin again" in caplog.text
