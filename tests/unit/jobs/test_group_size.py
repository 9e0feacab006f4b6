"""A group that was made larger in vain is made smaller again, and stays so."""

from __future__ import annotations

from jobs.group_size import GroupSize


def test_a_larger_group_that_makes_no_checkpoint_is_not_tried_again() -> None:
    size = GroupSize(2)
    size.begin(2)
    size.look(20, has_lost=True)
    size.begin(1)
    size.look(40, has_lost=False)  # stopped for the machine that came
    size.begin(2)
    assert size.most == 2
    size.look(40, has_lost=True)  # which cannot be reached
    assert size.most == 1


def test_one_that_made_a_checkpoint_before_it_was_lost_may_come_again() -> None:
    size = GroupSize(2)
    size.begin(1)
    size.look(20, has_lost=False)
    size.begin(2)
    size.look(30, has_lost=True)
    assert size.most == 2


def test_what_was_lost_from_the_start_or_has_left_makes_nothing_smaller() -> None:
    size = GroupSize(2)
    for has_lost in (True, False, True):
        size.begin(2)
        size.look(0, has_lost=has_lost)
    size.begin(1)
    size.look(20, has_lost=False)
    size.begin(2)
    size.look(20, has_lost=False)
    assert size.most == 2
