"""Leases: every row once, whatever islands do."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mulm.train.sync.leases import Leases


def test_pieces_follow_each_other_and_end() -> None:
    leases = Leases(12, 2)
    first, second = leases.give("a", 4, 2), leases.give("b", 3, 2)
    assert (first.start, first.stop, first.n_done) == (0, 4, 0)
    assert (second.start, second.stop) == (4, 6)  # half of what is left, for two
    leases.done("a", 2)
    assert leases.n_done == 2
    leases.done("a", 4)
    leases.done("b", 2)
    assert leases.n_done == 6
    assert not leases.is_complete


def test_what_a_leaver_left_is_given_first() -> None:
    leases = Leases(100, 1)
    leases.give("a", 10, 1)
    leases.done("a", 3)
    leases.free("a")
    again = leases.give("b", 10, 1)
    assert (again.start, again.stop) == (3, 10)
    assert leases.give("c", 5, 1).start == 10


def test_rows_that_somebody_knows_of_are_not_given_twice() -> None:
    leases = Leases(100, 1)
    leases.skip_to(40)
    assert leases.give("a", 5, 1).start == 40
    leases.skip_to(400)
    assert leases.give("b", 5, 1).n_rows == 0


def test_who_asks_again_is_given_what_he_did_not_hear_of() -> None:
    leases = Leases(100, 1)
    first = leases.give("a", 10, 1)
    assert leases.give("a", 10, 1) == first
    leases.done("a", 10)
    assert leases.give("a", 10, 1).start == 10


def test_what_is_not_done_is_free_after_a_stop() -> None:
    leases = Leases(100, 1)
    leases.give("a", 10, 2)
    leases.give("b", 5, 2)
    leases.done("a", 4)
    later = Leases(100, 1)
    later.restore(json.loads(json.dumps(leases.state())))
    assert later.n_done == 4
    pieces = [later.give(name, 100, 1) for name in "abc"]
    assert [(piece.start, piece.stop) for piece in pieces] == [(4, 10), (10, 15), (15, 58)]


@given(
    n_steps=st.integers(1, 40),
    granule=st.integers(1, 4),
    acts=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.booleans())),
)
def test_each_row_is_done_once_where_nobody_dies(
    n_steps: int, granule: int, acts: list[tuple[str, int, bool]]
) -> None:
    leases, done = Leases(n_steps * granule, granule), []
    counts = dict.fromkeys("abc", 0)
    held: dict[str, list[int]] = {name: [] for name in "abc"}
    script = [*acts, *[(name, 5, False) for name in "abc" * 200]]
    for name, wanted, is_leaving in script:
        if is_leaving:
            leases.free(name)
            held[name], counts[name] = [], 0
            continue
        if not held[name]:
            piece = leases.give(name, wanted, 3)
            assert piece.n_rows % granule == 0
            held[name] += range(piece.start, piece.stop)
        n_new = min(len(held[name]), wanted) // granule * granule
        done += held[name][:n_new]
        held[name] = held[name][n_new:]
        counts[name] += n_new
        leases.done(name, counts[name])
    assert leases.is_complete
    assert sorted(done) == list(range(n_steps * granule))


def test_resumed_with_other_pieces_no_row_is_left_out() -> None:
    leases = Leases(64, 8)
    leases.give("a", 24, 1)
    leases.done("a", 8)
    state = leases.state()
    later = Leases(64, 16)
    later.restore(state)
    rows: list[int] = []
    while (piece := later.give("b", 16, 1)).n_rows:
        assert piece.start % 16 == piece.stop % 16 == 0
        rows += range(piece.start, piece.stop)
        later.done("b", len(rows))
    # The first eight were done, but stand in a piece with others.
    assert sorted(rows) == list(range(64))
    assert later.is_complete
