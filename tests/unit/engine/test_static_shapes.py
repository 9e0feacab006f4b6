"""Shapes of steps: enough for all that can run, and few."""

from __future__ import annotations

import pytest

from mulm.engine.static_shapes import MOST_ROWS, Shape, Shapes
from mulm.model.batch import PIECE_PAGES


def test_rows_and_pages_double_up_to_what_is_needed():
    shapes = Shapes.of_steps(48, 257)
    assert shapes.rows == (1, 2, 4, 8, 16, 32, 48)
    assert shapes.pages == (16, 32, 64, 128, 256, 272)
    assert Shapes.of_steps(1, 1) == Shapes((1, 2, 4, 8), (PIECE_PAGES,))
    assert Shapes.of_steps(1024, 16).rows[-1] == MOST_ROWS


@pytest.mark.parametrize(("n_slots", "rows"), [(1, 32), (32, 32), (33, 64), (1024, MOST_ROWS)])
def test_invariant_steps_have_one_number_of_rows(n_slots, rows):
    assert Shapes.invariant(n_slots, 40) == Shapes((rows,), (16, 32, 48))


def test_the_smallest_that_fits():
    shapes = Shapes.of_steps(9, 40)
    assert shapes.smallest(1, 1) == Shape(1, 16)
    assert shapes.smallest(3, 17) == Shape(4, 32)
    assert shapes.smallest(9, 48) == shapes.largest == Shape(9, 48)
    assert shapes.smallest(10, 1) is shapes.smallest(1, 49) is None


def test_the_largest_comes_first():
    """Those after it find room in its memory."""
    shapes = Shapes((1, 2), (16, 32)).largest_first()
    assert shapes == [Shape(2, 32), Shape(2, 16), Shape(1, 32), Shape(1, 16)]
