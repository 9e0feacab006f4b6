"""Worked examples are drawn as lm-evaluation-harness draws them."""

from __future__ import annotations

import random

import pytest

from mulm.errors import DataError
from mulm.eval.shots import Shots

POOL = [{"n": n} for n in range(30)]


def test_draws_follow_each_other_from_the_harness_seed() -> None:
    shots, harness = Shots(POOL, 5, is_among=False), random.Random(1234)
    for _ in range(4):
        assert shots.draw({"n": -1}) == harness.sample(POOL, 5)


def test_a_question_is_never_its_own_example() -> None:
    shots, harness = Shots(POOL, 5, is_among=True), random.Random(1234)
    for row in POOL:
        drawn = shots.draw(row)
        assert row not in drawn
        assert drawn == [other for other in harness.sample(POOL, 6) if other != row][:5]


def test_none_asked_none_drawn() -> None:
    assert Shots([], 0, is_among=True).draw({"n": 1}) == []


@pytest.mark.parametrize("is_among", [True, False])
def test_too_few_rows(is_among: bool) -> None:
    Shots(POOL[: 5 + is_among], 5, is_among=is_among)
    with pytest.raises(DataError, match="5 worked examples"):
        Shots(POOL[: 4 + is_among], 5, is_among=is_among)
