"""What a home remembers of clusters: that it has joined one, and what its own head knew."""

from __future__ import annotations

import pytest

from actors import cluster
from mulm.errors import ConflictError, NotRunningError
from mulm.home import Home
from mulm.settings import Settings


def test_up_and_down_leave_a_member_alone(home: Home) -> None:
    home.create()
    home.joined.write_text("{}")
    for act in (lambda: cluster.up(home, Settings()), lambda: cluster.down(home)):
        with pytest.raises(ConflictError, match="has joined"):
            act()


@pytest.mark.parametrize("goes_on", [True, False])
def test_only_a_head_that_died_finds_what_it_knew(
    home: Home, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    home.create()
    home.cluster_state.mkdir()

    def stop_here(*_: object) -> None:
        raise NotRunningError("far enough")

    monkeypatch.setattr(cluster, "_plan", stop_here)
    with pytest.raises(NotRunningError, match="far enough"):
        cluster.up(home, Settings(), goes_on=goes_on)
    assert home.cluster_state.exists() is goes_on
