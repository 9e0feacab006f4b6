from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mulm.crew import LEASE_S, CrewBook, Outcomes, Seen

SEEN = Seen(1, Outcomes((False,)), Outcomes((True,), (0.5,)))


def test_the_first_leads_and_each_hears_the_others():
    book = CrewBook()
    assert book.meet("a", 0.0, {"tiny": SEEN}).leads
    met = book.meet("b", 0.1, {})
    assert (met.leads, met.words) == (False, ({"tiny": SEEN},))
    assert book.meet("a", 0.2, {}).words == ({},)


def test_another_leads_when_the_leader_leaves_or_is_silent():
    book = CrewBook()
    for name in "abc":
        book.meet(name, 0.0, {})
    book.leave("a")
    assert [book.meet(name, 0.1, {}).leads for name in "cb"] == [True, False]
    late_s = 0.1 + LEASE_S + 0.1
    met = book.meet("b", late_s, {})
    assert met.leads
    assert met.words == ()
    assert not book.meet("c", late_s, {}).leads, "who comes back follows"


STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 2 * LEASE_S), st.booleans()))


@given(STEPS)
def test_of_those_who_think_that_they_lead_there_is_one_within_a_lease(steps):
    """Each believes what it was told last, for as long as its lease lasts."""
    book, now_s, told = CrewBook(), 0.0, {}
    for name, passed_s, leaves in steps:
        now_s += passed_s
        if leaves:
            book.leave(name)
            told.pop(name, None)
        else:
            told[name] = (book.meet(name, now_s, {}).leads, now_s)
        leaders = [n for n, (leads, at_s) in told.items() if leads and now_s - at_s <= LEASE_S]
        assert len(leaders) <= 1
