from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.limits_leases import LEASE_S, Ask, LeaseBook, fair_shares

WANTED = st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1000), min_size=1, max_size=6)


@given(st.floats(0.1, 1000), WANTED)
def test_fair_shares_add_up_and_nobody_has_less_so_that_another_has_too_much(limit, wanted):
    shares = fair_shares(limit, wanted)
    assert sum(shares.values()) == pytest.approx(limit)
    for name, share in shares.items():
        if share < wanted[name] - 1e-6:
            assert share >= max(shares.values()) - 1e-6


@given(st.integers(1, 50), WANTED)
def test_places_are_shared_in_wholes(limit, wanted):
    shares = fair_shares(limit, wanted, is_whole=True)
    assert sum(shares.values()) == limit
    assert all(share == int(share) >= 0 for share in shares.values())


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.floats(0, 6), st.integers(0, 30), st.booleans()),
    max_size=50,
)


@given(st.integers(1, 20), st.booleans(), STEPS)
def test_all_together_never_hold_more_than_the_limit(limit, is_whole, steps):
    book, held, seen, now_s = LeaseBook(-100.0), {}, {}, 0.0
    for holder, passed_s, wanted, asks in steps:
        now_s += passed_s
        ask = Ask(limit, wanted, is_whole=is_whole)
        amounts = book.renew(holder, now_s, {"x": ask} if asks else {}).amounts
        held[holder], seen[holder] = amounts.get("x", 0.0), now_s
        living = [name for name in held if now_s - seen[name] <= LEASE_S]
        assert sum(held[name] for name in living) <= limit + 1e-6


def test_what_is_in_use_is_not_given_to_another():
    book = LeaseBook(-100.0)
    assert book.renew("a", 0.0, {"x": Ask(4, 4, is_whole=True)}).amounts == {"x": 4}
    assert book.renew("b", 0.1, {"x": Ask(4, 4, is_whole=True)}).amounts == {"x": 0}
    assert book.renew("a", 1.0, {"x": Ask(4, 4, in_use=3, is_whole=True)}).amounts == {"x": 2}
    assert book.renew("b", 1.1, {"x": Ask(4, 4, is_whole=True)}).amounts == {"x": 1}
    assert book.renew("a", 2.0, {"x": Ask(4, 4, in_use=1, is_whole=True)}).amounts == {"x": 2}
    assert book.renew("b", 2.1, {"x": Ask(4, 4, is_whole=True)}).amounts == {"x": 2}


def test_who_is_silent_or_leaves_holds_nothing():
    book = LeaseBook(-100.0)
    book.renew("a", 0.0, {"x": Ask(10, 10)})
    found = book.renew("b", LEASE_S + 0.1, {"x": Ask(10, 10)})
    assert (found.n_holders, found.amounts) == (1, {"x": 10})
    book.renew("a", LEASE_S + 0.2, {"x": Ask(10, 10)})
    book.leave("b")
    assert book.renew("a", LEASE_S + 0.3, {"x": Ask(10, 10)}).amounts == {"x": 10}


def test_one_who_begins_finds_something_although_another_wants_all():
    book = LeaseBook(-100.0)
    for holder in "ab":
        book.renew(holder, 0.0, {})
    assert book.renew("a", 0.5, {"x": Ask(100, 1e6)}).amounts["x"] == pytest.approx(98)
    assert book.renew("b", 1.0, {"x": Ask(100, 1e6)}).amounts["x"] == pytest.approx(2)


def test_an_owner_that_begins_anew_grants_no_more_than_each_has_until_all_have_asked():
    book = LeaseBook(0.0)
    assert book.renew("a", 0.5, {"x": Ask(100, 1e6, holds=60)}).amounts == {"x": 60}
    assert book.renew("b", 1.0, {"x": Ask(100, 1e6, holds=40)}).amounts["x"] == pytest.approx(40)
    assert book.renew("a", 4.0, {"x": Ask(100, 1e6, holds=60)}).amounts["x"] == pytest.approx(50)
    assert book.renew("b", 4.1, {"x": Ask(100, 1e6, holds=40)}).amounts["x"] == pytest.approx(50)
