"""Rounds are closed, and anchors encoded, while the aggregator hears others; all by events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from mulm.errors import NotRunningError, TrainingDivergedError
from mulm.train.sync.aggregator import Aggregator, RoundPlan
from mulm.train.sync.codecs import CODECS, Fp32Codec
from mulm.train.sync.rounds import Anchor, Offer, Standing, Update
from mulm.train.sync.sealed_round import ClosedRound, SealedRound
from tests.unit.train.sync.test_aggregator import FakeClock

N, PATIENCE_S = 300, 30.0
HERE = Standing(sizes=(N, N))
FP32, INT8 = CODECS["fp32"], CODECS["int8"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def aggregator(clock: FakeClock) -> Aggregator:
    """With the islands a and b, and an anchor of each of two fragments."""
    made = Aggregator(RoundPlan(n_rows=1000, granule=1, grace_s=2.0), clock)
    made.join("a", HERE)
    for fragment in (0, 1):
        made.send("a", Anchor(fragment, 0, FP32.encode(torch.zeros(N))))
    made.join("b", HERE)
    return made


def offer(island: str, value: float, fragment: int = 0, number: int = 0) -> Offer:
    return Offer(island, fragment, number, 1.0, INT8.encode(torch.full((N,), value)))


def anchor(aggregator: Aggregator, fragment: int = 0) -> tuple[int, Tensor]:
    told = aggregator.fetch("a", fragment)
    return told.number, FP32.decode(told.payload, N)


def decoded(update: Update | None) -> Tensor:
    assert update is not None
    return INT8.decode(update.payload, N)


class Halt:
    """Where one call of a method waits, until the test lets it go on."""

    def __init__(self) -> None:
        self.is_there, self.may_go = threading.Event(), threading.Event()

    def around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def halted(*arguments: Any) -> Any:
            if not self.is_there.is_set():
                self.is_there.set()
                assert self.may_go.wait(PATIENCE_S)
            return method(*arguments)

        return halted


@contextmanager
def elsewhere(call: Callable[[], object], halt: Halt) -> Iterator[threading.Thread]:
    """A call that waits in another thread; it may go on at the end of the block, and does."""
    thread = threading.Thread(target=call)
    thread.start()
    try:
        assert halt.is_there.wait(PATIENCE_S)
        yield thread
    finally:
        halt.may_go.set()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.fixture
def closing(monkeypatch: pytest.MonkeyPatch) -> Halt:
    halt = Halt()
    monkeypatch.setattr(SealedRound, "close", halt.around(SealedRound.close))
    return halt


def in_time(call: Callable[[], Any]) -> Any:
    """What a call returns that nothing may keep waiting."""
    told: list[Any] = []
    thread = threading.Thread(target=lambda: told.append(call()), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert told, "it waits for another's arithmetic"
    return told[0]


def test_others_are_heard_while_a_round_is_closed(aggregator: Aggregator, closing: Halt) -> None:
    aggregator.offer(offer("a", 1.0))
    with elsewhere(lambda: aggregator.offer(offer("b", 3.0)), closing):
        assert in_time(lambda: aggregator.offer(offer("a", 5.0, fragment=1))) == 0
        assert in_time(lambda: aggregator.lease("a", 3, 0)).n_rows == 3
        assert in_time(lambda: aggregator.take("a", 0, 0, 0.0)) is None
        number, anchor_N = in_time(lambda: anchor(aggregator))
        assert number == 0
        assert not anchor_N.any()
        tensors, facts = in_time(aggregator.state)
        assert facts["rounds"] == [0, 0]
        assert not tensors["0.public"].any()
    update_N = decoded(aggregator.take("a", 0, 0, 0.0))
    assert torch.allclose(update_N, torch.full((N,), 2.0), rtol=0.02)
    number, anchor_N = anchor(aggregator)
    assert number == 1
    assert torch.equal(anchor_N, update_N), "bit for bit what islands add"
    assert not tensors["0.public"].any(), "what was read meanwhile is as it was"


def test_an_offer_is_heard_while_another_island_fetches(
    aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = Halt()
    monkeypatch.setattr(Fp32Codec, "encode", encoding.around(Fp32Codec.encode))
    fetched: list[Anchor] = []
    with elsewhere(lambda: fetched.append(aggregator.fetch("b", 0)), encoding):
        for island in "ab":
            assert in_time(lambda island=island: aggregator.offer(offer(island, 1.0))) == 0
        assert in_time(lambda: aggregator.take("a", 0, 0, 0.0)) is not None
    # It has the anchor of the number that it was told, though that has moved since.
    assert fetched[0].number == 0
    assert not FP32.decode(fetched[0].payload, N).any()


def test_an_offer_that_is_said_again_while_its_round_is_closed_counts_once(
    aggregator: Aggregator, closing: Halt, clock: FakeClock
) -> None:
    aggregator.join("c", HERE)
    for island, value in (("a", 1.0), ("b", 3.0)):
        aggregator.offer(offer(island, value))
    clock.advance(2.0)  # the grace is over
    with elsewhere(lambda: aggregator.take("a", 0, 0, 0.0), closing):
        assert in_time(lambda: aggregator.offer(offer("b", 3.0))) == 0
        assert in_time(lambda: aggregator.offer(offer("c", 9.0))) == 1, "that one came late"
    assert aggregator.take("a", 0, 1, 0.0) is None
    for island in "ab":
        aggregator.offer(offer(island, 0.0, number=1))
    assert aggregator.offer(offer("c", 9.0)) == 1
    update = aggregator.take("a", 0, 1, 0.0)
    assert update is not None
    assert update.islands == {"a", "b", "c"}
    assert torch.allclose(decoded(update), torch.full((N,), 3.0), rtol=0.02)


def test_who_joins_again_while_its_offer_is_counted_has_the_anchor_with_it(
    aggregator: Aggregator, closing: Halt
) -> None:
    aggregator.offer(offer("a", 1.0))
    joined = []
    again = threading.Thread(
        target=lambda: joined.append(aggregator.join("b", Standing((N, N), (0, 0))))
    )
    with elsewhere(lambda: aggregator.offer(offer("b", 3.0)), closing):
        again.start()
        again.join(0.2)
        assert not joined, "it was told that its offer does not count"
    again.join(PATIENCE_S)
    assert joined[0].fetch == (0,)
    assert anchor(aggregator)[0] == 1


def test_who_joins_while_a_round_is_closed_for_long_asks_again(
    aggregator: Aggregator, closing: Halt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mulm.train.sync.aggregator._CLOSING_S", 0.01)
    aggregator.offer(offer("a", 1.0))
    with (
        elsewhere(lambda: aggregator.offer(offer("b", 3.0)), closing),
        pytest.raises(NotRunningError),
    ):
        aggregator.join("b", Standing((N, N), (0, 0)))
    update = aggregator.take("a", 0, 0, 0.0)
    assert update is not None
    assert update.islands == {"a", "b"}
    assert aggregator.join("b", Standing((N, N), (0, 0))).fetch == (0,)


def test_an_anchor_that_is_newer_than_a_round_being_closed_stays(
    aggregator: Aggregator, closing: Halt
) -> None:
    aggregator.offer(offer("a", 1.0))
    with elsewhere(lambda: aggregator.offer(offer("b", 3.0)), closing):
        newer = Anchor(0, 7, FP32.encode(torch.full((N,), 0.5)))
        in_time(lambda: aggregator.send("a", newer))
    number, anchor_N = anchor(aggregator)
    assert number == 7
    assert torch.equal(anchor_N, torch.full((N,), 0.5))


def test_a_round_that_could_not_be_closed_is_closed_later(
    aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, n_failed = SealedRound.close, [0]

    def fail_once(self: SealedRound, *arguments: Any) -> ClosedRound:
        n_failed[0] += 1
        if n_failed[0] == 1:
            raise TrainingDivergedError("not finite")
        return close(self, *arguments)

    monkeypatch.setattr(SealedRound, "close", fail_once)
    aggregator.offer(offer("a", 1.0))
    with pytest.raises(TrainingDivergedError):
        aggregator.offer(offer("b", 3.0))
    assert aggregator.offer(offer("b", 3.0)) == 0
    update = aggregator.take("a", 0, 0, 0.0)
    assert update is not None
    assert update.islands == {"a", "b"}


def test_many_at_once_have_one_anchor(aggregator: Aggregator) -> None:
    names, n_rounds = ("a", "b"), 30
    anchors = {(name, fragment): torch.zeros(N) for name in names for fragment in (0, 1)}

    def live(name: str, fragment: int) -> None:
        generator = torch.Generator().manual_seed(ord(name) + fragment)
        for number in range(n_rounds):
            progress = INT8.encode(torch.randn(N, generator=generator))
            aggregator.offer(Offer(name, fragment, number, 1.0, progress))
            update = aggregator.take(name, fragment, number, PATIENCE_S)
            anchors[name, fragment] += decoded(update)

    threads = [threading.Thread(target=live, args=each) for each in anchors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    for (_, fragment), anchor_N in anchors.items():
        assert anchor(aggregator, fragment)[0] == n_rounds
        assert torch.equal(anchor(aggregator, fragment)[1], anchor_N)
