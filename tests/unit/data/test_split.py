from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.split import fraction_of, held_out
from mulm.errors import DataError

groups = st.sets(st.text(max_size=8), min_size=2, max_size=60)


@given(groups, st.floats(0.001, 0.5), st.text(max_size=3))
def test_both_sides_have_something(names: set[str], fraction: float, salt: str) -> None:
    chosen = held_out(names, fraction, salt)
    assert chosen
    assert chosen < names


def test_share_is_about_the_fraction() -> None:
    chosen = held_out((str(i) for i in range(5000)), 0.1, "")
    assert 400 < len(chosen) < 600


def test_adding_files_moves_none_of_the_others() -> None:
    before = {str(i) for i in range(200)}
    after = before | {f"new {i}" for i in range(100)}
    assert held_out(after, 0.1, "x") & before == held_out(before, 0.1, "x")


def test_lowest_hash_when_none_falls_under() -> None:
    names = ["a", "b", "c"]
    lowest = min(names, key=lambda name: fraction_of(name, "s"))
    assert held_out(names, 1e-9, "s") == {lowest}


@pytest.mark.parametrize("names", [[], ["only"], ["same", "same"]])
def test_too_small(names: list[str]) -> None:
    with pytest.raises(DataError, match="smaller than one validation document") as caught:
        held_out(names, 0.1, "")
    assert caught.value.hint
