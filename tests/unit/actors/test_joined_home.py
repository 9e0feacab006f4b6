"""A home that is a member of another machine's application starts and ends none of its own."""

from __future__ import annotations

import pytest

from actors import cluster
from mulm.errors import ConflictError
from mulm.home import Home
from mulm.settings import Settings


def test_up_and_down_leave_a_member_alone(home: Home) -> None:
    home.create()
    home.joined.write_text("{}")
    for act in (lambda: cluster.up(home, Settings()), lambda: cluster.down(home)):
        with pytest.raises(ConflictError, match="has joined"):
            act()
