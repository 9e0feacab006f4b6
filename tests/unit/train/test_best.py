"""Which checkpoint is the best, by a validation after its very step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mulm.model.checkpoint import save_checkpoint
from mulm.train.best import BestCheckpoint


@pytest.mark.parametrize(("higher_is_better", "best"), [(False, 2), (True, 4)])
def test_of_equals_the_first(higher_is_better: bool, best: int) -> None:
    checkpoints = BestCheckpoint(higher_is_better=higher_is_better)
    for step, judged in enumerate([2.0, 1.0, 1.0, 3.0, 3.0], 1):
        checkpoints.takes(step, judged)
    assert checkpoints.step == best


def test_none_was_judged() -> None:
    best = BestCheckpoint(higher_is_better=True)
    assert not best.takes(1, None)
    assert best.step is None


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"bits": 0.1},
        {"bits": None, "is_validated": True},
        {"bits": 0.1, "is_validated": False},
    ],
)
def test_those_of_other_steps_and_of_older_releases_are_not_judged(
    tmp_path: Path, facts: dict[str, Any]
) -> None:
    save_checkpoint(tmp_path, 1, {}, facts)
    save_checkpoint(tmp_path, 2, {}, {"bits": 2.0, "is_validated": True})
    assert BestCheckpoint.among(tmp_path, "bits", higher_is_better=False).step == 2
