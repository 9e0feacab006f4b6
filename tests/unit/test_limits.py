from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.limits import PERIOD_S, Gcra, Places


class Bucket:
    """The simple reference: a bucket of a minute's worth, filled step by step, in exact numbers."""

    def __init__(self, per_minute: int) -> None:
        self.rate = Fraction(per_minute, 60)
        self.size = self.left = Fraction(per_minute)
        self.now_s = Fraction(0)

    def fill(self, now_s: Fraction) -> None:
        self.left = min(self.size, self.left + (now_s - self.now_s) * self.rate)
        self.now_s = now_s

    def wait_s(self, units: int) -> Fraction:
        return max(Fraction(0), (min(Fraction(units), self.size) - self.left) / self.rate)

    def change(self, per_minute: int) -> None:
        self.rate, self.size = Fraction(per_minute, 60), Fraction(per_minute)
        self.left = min(self.left, self.size)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "give_back", "change"]),
        st.integers(0, 40_000),  # milliseconds that pass before it
        st.integers(1, 500),
    ),
    max_size=60,
)


@given(st.integers(1, 300), STEPS)
def test_it_decides_as_a_plain_bucket_does(per_minute, steps):
    under_test, simple = Gcra(per_minute), Bucket(per_minute)
    now, used = Fraction(1000), 0
    simple.now_s = now
    for act, passed_ms, units in steps:
        now += Fraction(passed_ms, 1000)
        simple.fill(now)
        now_s = float(now)
        if act == "take":
            expected, found = simple.wait_s(units), under_test.wait_s(now_s, units)
            assert found == pytest.approx(float(expected), abs=1e-6)
            if expected == 0 and found == 0:
                simple.left -= units
                under_test.take(now_s, units)
                used = units
        elif act == "give_back":
            back = min(units, used)
            used -= back
            simple.left = min(simple.size, simple.left + back)
            under_test.give_back(back)
        else:
            simple.change(units)
            under_test.change(now_s, units)
            used = 0
        assert under_test.left(now_s) == pytest.approx(float(simple.left), abs=1e-4)


@given(st.integers(1, 120), st.lists(st.integers(0, 5000), min_size=1, max_size=200))
def test_no_window_has_more_than_a_minutes_worth_and_the_rate(per_minute, gaps_ms):
    gcra, now_ms, admitted = Gcra(per_minute), 0, []
    for gap in gaps_ms:
        now_ms += gap
        if not gcra.wait_s(now_ms / 1000, 1):
            gcra.take(now_ms / 1000, 1)
            admitted.append(now_ms / 1000)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            t_s = admitted[last] - admitted[first]
            assert last - first + 1 <= per_minute * (1 + t_s / PERIOD_S) + 1e-6


def test_what_is_refused_costs_nothing_and_the_wait_is_as_told():
    gcra = Gcra(60)
    for _ in range(60):
        assert gcra.wait_s(0.0, 1) == 0
        gcra.take(0.0, 1)
    for _ in range(1000):
        assert gcra.wait_s(0.0, 1) == pytest.approx(1.0)
    assert gcra.wait_s(0.999, 1) > 0
    assert gcra.wait_s(1.0, 1) == 0
    assert gcra.reset_s(0.0) == pytest.approx(60.0)


def test_more_than_a_minutes_worth_waits_for_a_full_bucket_and_is_paid_off():
    gcra = Gcra(100)
    assert gcra.wait_s(0.0, 250) == 0
    gcra.take(0.0, 250)
    assert gcra.left(0.0) == pytest.approx(-150)
    assert gcra.wait_s(0.0, 1) == pytest.approx(90.6)
    assert gcra.wait_s(90.0, 250) == pytest.approx(60.0)


def test_places_are_taken_and_left():
    places = Places(1)
    assert places.is_free()
    places.take()
    assert not places.is_free()
    places.leave()
    assert places.is_free()
    places.n_places = 0
    assert not places.is_free()
