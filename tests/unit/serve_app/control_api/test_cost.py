"""What a call of the control API costs in questions to the ledger, which is a process away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest


class Counted:
    """The ledger, and what it was asked."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        return getattr(self._ledger, name)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("models", ["versions"]),
        ("keys", ["valid_keys"]),
        ("runs?limit=20", ["runs"]),
        ("audit", ["audit"]),
        ("feedback", ["feedback"]),
    ],
)
def test_a_list_asks_the_ledger_once(api, ledger, versions, path, asked):
    """Whether the key may ask is known already, from whoever has let the request in."""
    counted = Counted(ledger)
    api.app.state.control = replace(api.app.state.control, facts=counted)
    api.get(f"/api/v1/{path}")
    assert counted.asked == asked
