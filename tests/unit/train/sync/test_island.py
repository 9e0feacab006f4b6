"""An island: what it learned is in the anchor once, whatever became of an exchange."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from mulm.errors import NotRunningError
from mulm.train.sync.aggregator import Aggregator, RoundPlan
from mulm.train.sync.fragment import Fragment, cut_fragments
from mulm.train.sync.island import Change, Island, IslandPlan
from mulm.train.sync.rounds import NotAMemberError, Rounds

N, ROUND_S = 256, 10.0
PLAN = RoundPlan(n_rows=1000, granule=1, wire="fp32", grace_s=2.0, silence_s=100.0)


class FakeClock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Member:
    """An island whose weights the test moves by hand."""

    def __init__(self, rounds: Rounds, name: str, clock: FakeClock) -> None:
        self.weight = nn.Parameter(torch.zeros(N))
        self.fragments: list[Fragment] = cut_fragments([self.weight], 1)
        plan = IslandPlan(ROUND_S, "fp32")
        self.island = Island(rounds, name, self.fragments, plan, clock)
        self.add(self.island.join())

    @torch.no_grad()
    def learn(self, change: float) -> None:
        self.weight.add_(change)
        self.island.learned(1.0)

    def poll(self) -> None:
        self.add(self.island.poll())

    def wait(self) -> None:
        self.add(self.island.wait())

    def add(self, changes: list[Change]) -> None:
        for change in changes:
            self.fragments[change.fragment].add(change.change_N)

    @property
    def anchor(self) -> float:
        (anchor,) = self.island.anchors()
        assert bool((anchor.change_N == anchor.change_N[0]).all())
        return float(anchor.change_N[0])


class Flaky:
    """`Rounds` that fail as often as they are told to."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self.errors: dict[str, list[Exception]] = {}

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._rounds, name)

        def answer(*values: Any) -> Any:
            given = call(*values)
            if self.errors.get(name):
                raise self.errors[name].pop()  # it was heard, its answer is lost
            return given

        return answer


Join = Callable[[str], Member]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def aggregator(clock: FakeClock) -> Aggregator:
    return Aggregator(PLAN, clock)


@pytest.fixture
def flaky(aggregator: Aggregator) -> Flaky:
    return Flaky(aggregator)


@pytest.fixture
def join(flaky: Flaky, clock: FakeClock) -> Iterator[Join]:
    """join(name): a new member."""
    members = []

    def begin(name: str) -> Member:
        members.append(Member(flaky, name, clock))
        return members[-1]

    yield begin
    for member in members:
        member.island.close()


def until(is_true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 5
    while not is_true():
        assert time.monotonic() < end_s
        time.sleep(0.002)


def offers(aggregator: Aggregator) -> set[str]:
    return set(aggregator._parts[0].offers)


def test_two_meet_in_the_middle_and_what_was_learned_meanwhile_stays(
    join: Join, aggregator: Aggregator, clock: FakeClock
) -> None:
    a, b = join("a"), join("b")
    a.learn(1.0)
    b.learn(3.0)
    clock.now_s = 11.0
    a.poll()
    a.learn(0.5)
    b.poll()
    a.wait()
    b.wait()
    assert a.anchor == b.anchor == 2.0
    assert torch.equal(a.weight, torch.full((N,), 2.5))
    assert torch.equal(b.weight, torch.full((N,), 2.0))
    assert aggregator._parts[0].number == 1


def test_progress_that_comes_late_is_in_the_next_round_once(
    join: Join, aggregator: Aggregator, clock: FakeClock
) -> None:
    a, b = join("a"), join("b")
    a.learn(2.0)
    b.learn(4.0)
    clock.now_s = 11.0
    a.poll()
    until(lambda: offers(aggregator) == {"a"})
    clock.now_s = 14.0
    assert aggregator.take("a", 0, 0, 0.0)  # the grace is over
    b.poll()
    b.wait()
    a.wait()
    assert a.anchor == b.anchor == 2.0
    assert torch.equal(b.weight, torch.full((N,), 6.0)), "the anchor moved; its own is its own"
    b.poll()  # waits for the round that has it; nothing new is sent
    a.learn(2.0)
    clock.now_s = 25.0
    a.poll()
    a.wait()
    b.wait()
    assert a.anchor == b.anchor == 5.0
    for member in (a, b):
        assert torch.equal(member.weight, torch.full((N,), 5.0))


def test_lost_answers_count_nothing_twice(join: Join, flaky: Flaky, clock: FakeClock) -> None:
    a, b = join("a"), join("b")
    a.learn(1.0)
    b.learn(3.0)
    flaky.errors = {"offer": [NotRunningError("a cut")], "take": [NotRunningError("a cut")]}
    clock.now_s = 11.0
    for member in (a, b):
        member.poll()
    for member in (a, b):
        member.wait()
    assert a.anchor == b.anchor == 2.0
    assert torch.equal(a.weight, b.weight)


def test_who_is_told_too_late_that_his_progress_counted_does_not_keep_it(
    join: Join, flaky: Flaky, aggregator: Aggregator, clock: FakeClock
) -> None:
    a, b = join("a"), join("b")
    a.learn(1.0)
    b.learn(3.0)
    clock.now_s = 11.0
    a.poll()
    until(lambda: offers(aggregator) == {"a"})
    flaky.errors = {"take": [NotAMemberError("it is gone"), NotAMemberError("it is gone")]}
    b.poll()
    for member in (a, b):
        member.wait()
        assert member.island.is_out
        member.add(member.island.join())
        assert member.anchor == 2.0
        assert torch.equal(member.weight, torch.full((N,), 2.0))


def test_a_round_that_died_with_the_aggregator_is_given_again(
    join: Join, flaky: Flaky, aggregator: Aggregator, clock: FakeClock
) -> None:
    a, b = join("a"), join("b")
    kept = aggregator.state()
    a.learn(1.0)
    b.learn(3.0)
    clock.now_s = 11.0
    a.poll()
    until(lambda: offers(aggregator) == {"a"})
    later = Aggregator(PLAN, clock)
    later.restore(*kept)
    flaky._rounds = later
    aggregator.leave("a", 0)  # the old one says no more
    a.wait()
    assert a.island.is_out
    for member in (a, b):
        member.add(member.island.join())
    assert torch.equal(a.weight, torch.full((N,), 1.0))
    for member in (a, b):
        member.poll()
    for member in (a, b):
        member.wait()
    assert a.anchor == b.anchor == 2.0
    assert torch.equal(a.weight, b.weight)


def test_rounds_become_as_long_as_a_lease_says(
    join: Join, aggregator: Aggregator, clock: FakeClock
) -> None:
    one = join("a")
    assert one.island.lease(1, 0) is not None
    assert one.island.round_s == ROUND_S
    aggregator.round_s = 3.0
    assert one.island.lease(1, 1) is not None
    clock.now_s = ROUND_S  # what was begun is as long as it was
    for n_rounds in (1, 2):
        one.learn(1.0)
        one.poll()
        one.wait()
        assert one.island.n_rounds == n_rounds
        one.learn(1.0)
        clock.now_s += 2.9
        one.poll()
        one.wait()
        assert one.island.n_rounds == n_rounds
        clock.now_s += 0.2
