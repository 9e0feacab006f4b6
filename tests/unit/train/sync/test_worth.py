from __future__ import annotations

import pytest

from mulm.train.sync.worth import BY_SLOWNESS, BY_STEPS, MOST_STEPS, worth


@pytest.mark.parametrize(
    ("steps", "measured"), [(8, 1.75 / 2), (20, 1.70 / 2), (40, 1.49 / 2), (80, 1.32 / 2)]
)
def test_equal_islands_are_worth_what_was_measured(steps: float, measured: float) -> None:
    assert worth(steps, 1.0) == pytest.approx(measured, abs=0.001)


@pytest.mark.parametrize(("slowness", "measured"), [(2, 1.23 / 1.5), (4, 0.97 / 1.25)])
def test_so_are_unequal_ones(slowness: float, measured: float) -> None:
    assert worth(20, slowness) == pytest.approx(measured, abs=0.001)


def test_more_steps_and_slower_islands_are_never_worth_more() -> None:
    for slowness in (1.0, 1.5, 3.0, 8.0):
        found = [worth(steps / 4, slowness) or 0.0 for steps in range(1, 161)]
        assert found == sorted(found, reverse=True)
    for steps in (1, 20, 40, 80):
        found = [worth(steps, 1 + slower / 4) or 0.0 for slower in range(40)]
        assert found == sorted(found, reverse=True)


def test_nothing_is_worth_more_than_the_best_that_was_measured() -> None:
    assert worth(0.5, 1.0) == BY_STEPS[0][1]
    assert worth(8, 100.0) == pytest.approx(BY_STEPS[0][1] * BY_SLOWNESS[-1][1])


def test_what_was_not_measured_is_not_guessed() -> None:
    assert worth(MOST_STEPS, 1.0) is not None
    assert worth(MOST_STEPS + 0.1, 1.0) is None
