"""The aggregator: one anchor for all, nothing lost, nobody waited for too long."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mulm.errors import AuthError, ConflictError, CorruptError, NotRunningError
from mulm.train.sync.aggregator import Aggregator, RoundPlan
from mulm.train.sync.aggregator_server import AggregatorServer
from mulm.train.sync.codecs import CODECS
from mulm.train.sync.outer_link import OuterLink
from mulm.train.sync.outer_step import OuterStep
from mulm.train.sync.rounds import (
    Anchor,
    Joined,
    NotAMemberError,
    Offer,
    Rounds,
    Standing,
    Update,
    checksum,
)
from mulm.train.sync.transport_tcp import TcpRounds

N = 300


class FakeClock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


PLAN = RoundPlan(n_rows=1000, granule=1, grace_s=2.0, silence_s=10.0)
HERE = Standing(sizes=(N,))


def begun(plan: RoundPlan = PLAN, clock: FakeClock | None = None) -> tuple[Aggregator, Tensor]:
    """With the islands a and b, and the anchor that a sent."""
    aggregator = Aggregator(plan, clock or FakeClock())
    anchor_N = torch.randn(N, generator=torch.Generator().manual_seed(1))
    assert aggregator.join("a", HERE).send == (0,)
    aggregator.send("a", Anchor(0, 0, CODECS["fp32"].encode(anchor_N)))
    assert aggregator.join("b", HERE).fetch == (0,)
    return aggregator, anchor_N


def offer(island: str, progress_N: Tensor, *, number: int = 0, n_tokens: float = 1.0) -> Offer:
    return Offer(island, 0, number, n_tokens, CODECS["int8"].encode(progress_N))


def decoded(update: Update | None) -> Tensor:
    assert update is not None
    return CODECS["int8"].decode(update.payload, N)


def test_an_update_is_the_mean_by_tokens() -> None:
    aggregator, _ = begun()
    aggregator.offer(offer("a", torch.full((N,), 1.0), n_tokens=3.0))
    assert aggregator.take("a", 0, 0, 0.0) is None
    aggregator.offer(offer("b", torch.full((N,), -1.0), n_tokens=1.0))
    update = aggregator.take("a", 0, 0, 0.0)
    assert update is not None
    assert update.islands == {"a", "b"}
    assert torch.allclose(decoded(update), torch.full((N,), 0.5), rtol=0.01)


def test_the_public_anchor_is_what_updates_say_and_the_rest_goes_next_time() -> None:
    aggregator, anchor_N = begun()
    generator = torch.Generator().manual_seed(2)
    true_N = anchor_N.clone()
    for number in range(20):
        progress_N = torch.randn(N, generator=generator)
        payload = CODECS["int8"].encode(progress_N)
        true_N += CODECS["int8"].decode(payload, N)
        for island in "ab":
            aggregator.offer(Offer(island, 0, number, 1.0, payload))
        anchor_N += decoded(aggregator.take("b", 0, number, 0.0))
    fetched = aggregator.fetch("a", 0)
    assert fetched.number == 20
    assert torch.equal(CODECS["fp32"].decode(fetched.payload, N), anchor_N)
    # Twenty roundings, and the error is that of the last alone.
    assert (true_N - anchor_N).abs().max() < 4 / 127


def test_a_round_closes_without_a_silent_island_after_the_grace() -> None:
    clock = FakeClock()
    aggregator, _ = begun(clock=clock)
    aggregator.offer(offer("a", torch.ones(N)))
    clock.advance(1.9)
    assert aggregator.take("a", 0, 0, 0.0) is None
    clock.advance(0.2)
    update = aggregator.take("a", 0, 0, 0.0)
    assert update is not None
    assert update.islands == {"a"}
    # What comes late counts in the next round, however often it is said.
    for _ in range(2):
        assert aggregator.offer(offer("b", torch.full((N,), 3.0))) == 1
    clock.advance(5.0)
    assert aggregator.take("b", 0, 1, 0.0) is None, "a latecomer begins no grace"
    assert aggregator.offer(offer("a", torch.ones(N), number=1)) == 1
    assert aggregator.offer(offer("b", torch.full((N,), 3.0))) == 1, "said again, after its round"
    update = aggregator.take("b", 0, 1, 0.0)
    assert update is not None
    assert update.islands == {"a", "b"}
    assert torch.allclose(decoded(update), torch.full((N,), 2.0), rtol=0.02)


def test_an_island_that_is_gone_is_not_waited_for_again() -> None:
    clock = FakeClock()
    aggregator, _ = begun(clock=clock)
    for number in range(2):
        aggregator.offer(offer("a", torch.ones(N), number=number))
        clock.advance(6.0)
        assert aggregator.take("a", 0, number, 0.0)
    aggregator.offer(offer("a", torch.ones(N), number=2))
    assert aggregator.take("a", 0, 2, 0.0)  # at once
    with pytest.raises(NotAMemberError):
        aggregator.lease("b", 1, 0)
    assert aggregator.join("b", replace(HERE, rounds=(0,))).fetch == (0,)


def test_without_a_quorum_a_round_closes_when_all_were_silent_for_long() -> None:
    clock = FakeClock()
    aggregator, _ = begun(clock=clock)
    aggregator.join("c", HERE)
    for island in "abc":  # a joiner counts from the next round on
        aggregator.offer(offer(island, torch.ones(N)))
    for island in "abc":
        aggregator.offer(offer(island, torch.ones(N), number=1))
    aggregator.offer(offer("a", torch.ones(N), number=2))
    clock.advance(9.0)
    assert aggregator.take("a", 0, 2, 0.0) is None
    clock.advance(1.1)
    assert aggregator.take("a", 0, 2, 0.0)
    aggregator.offer(offer("a", torch.ones(N), number=3))
    clock.advance(10.1)
    assert aggregator.take("a", 0, 3, 0.0)
    # The two were missed twice, and nobody waits for them any more.
    aggregator.offer(offer("a", torch.ones(N), number=4))
    assert aggregator.take("a", 0, 4, 0.0)


def test_the_sum_does_not_depend_on_who_came_first() -> None:
    generator = torch.Generator().manual_seed(5)
    offers = [
        offer(name, torch.randn(N, generator=generator), n_tokens=n_tokens)
        for name, n_tokens in (("a", 1.0), ("b", 2.0), ("c", 3.0))
    ]
    anchors = []
    for order in (offers, offers[::-1]):
        aggregator = Aggregator(PLAN, FakeClock())
        for island in "abc":
            aggregator.join(island, HERE)
        aggregator.send("a", Anchor(0, 0, CODECS["fp32"].encode(torch.zeros(N))))
        for given in order:
            aggregator.offer(given)
        anchors.append(aggregator.fetch("a", 0))
    assert anchors[0].number == 1
    assert anchors[0] == anchors[1]


def test_who_joins_again_gives_again() -> None:
    aggregator, _ = begun()
    aggregator.offer(offer("a", torch.ones(N)))
    assert aggregator.join("a", replace(HERE, rounds=(0,))).fetch == ()
    aggregator.offer(offer("a", torch.full((N,), 2.0)))
    aggregator.offer(offer("b", torch.full((N,), 2.0)))
    assert torch.allclose(
        decoded(aggregator.take("b", 0, 0, 0.0)), torch.full((N,), 2.0), rtol=0.01
    )


def test_a_joiner_is_not_waited_for_in_the_round_that_is_open() -> None:
    aggregator, _ = begun()
    for island in "ab":
        aggregator.offer(offer(island, torch.ones(N)))
    assert aggregator.join("c", HERE).fetch == (0,)
    for island in "ab":
        aggregator.offer(offer(island, torch.ones(N), number=1))
    assert aggregator.take("a", 0, 1, 0.0)
    for island in "ab":
        aggregator.offer(offer(island, torch.ones(N), number=2))
    assert aggregator.take("a", 0, 2, 0.0) is None
    aggregator.offer(offer("c", torch.ones(N), number=2))
    assert aggregator.take("a", 0, 2, 0.0)


def test_a_leaver_ends_the_waiting_and_its_rows_are_free() -> None:
    aggregator, _ = begun()
    assert aggregator.lease("b", 10, 0).stop == 10
    aggregator.offer(offer("a", torch.ones(N)))
    aggregator.leave("b", 4)
    assert aggregator.take("a", 0, 0, 0.0)
    assert aggregator.lease("a", 100, 0).start == 4
    aggregator.leave("b", 4)


def test_an_offer_said_twice_counts_once() -> None:
    aggregator, _ = begun()
    for _ in range(2):
        assert aggregator.offer(offer("a", torch.ones(N))) == 0
    assert aggregator.offer(offer("b", torch.zeros(N))) == 0
    assert aggregator.offer(offer("a", torch.ones(N))) == 0, "also after its round"
    assert torch.allclose(
        decoded(aggregator.take("a", 0, 0, 0.0)), torch.full((N,), 0.5), rtol=0.01
    )


def test_started_again_it_takes_newer_anchors_and_rows_from_islands() -> None:
    aggregator, anchor_N = begun()
    tensors, facts = aggregator.state()
    for island in "ab":
        aggregator.offer(offer(island, torch.ones(N)))
    anchor_N += decoded(aggregator.take("a", 0, 0, 0.0))

    later = Aggregator(PLAN, FakeClock())
    later.restore(tensors, facts)
    joined = later.join("a", Standing(sizes=(N,), rounds=(1,), line=50))
    assert joined.send == (0,)
    later.send("a", Anchor(0, 1, CODECS["fp32"].encode(anchor_N)))
    assert later.lease("a", 5, 0).start == 50
    assert later.join("b", Standing(sizes=(N,), rounds=(1,), line=60)).fetch == ()
    assert later.lease("b", 5, 0).start == 60
    assert torch.equal(CODECS["fp32"].decode(later.fetch("b", 0).payload, N), anchor_N)


def test_after_its_death_an_island_of_as_many_rounds_but_other_numbers_fetches_them() -> None:
    """The round was closed once before the death, with all in it, and once after it, without b."""
    aggregator, old_N = begun()
    tensors, facts = aggregator.state()
    for island in "ab":
        aggregator.offer(offer(island, torch.ones(N)))
    update_N = decoded(aggregator.take("a", 0, 0, 0.0))

    later = Aggregator(PLAN, FakeClock())
    later.restore(tensors, facts)
    assert not later.join("a", Standing((N,), (0,), 0, (checksum(old_N),))).fetch
    later.offer(offer("a", -torch.ones(N)))
    assert later.take("a", 0, 0, 0.0) is not None
    joined = later.join("b", Standing((N,), (1,), 0, (checksum(old_N + update_N),)))
    assert joined == Joined(send=(), fetch=(0,))
    now_N = CODECS["fp32"].decode(later.fetch("b", 0).payload, N)
    assert not later.join("b", Standing((N,), (1,), 0, (checksum(now_N),))).fetch


def test_nesterov_is_the_textbooks_and_goes_on_after_a_stop() -> None:
    plan = replace(PLAN, wire="fp32", outer=OuterStep("nesterov", lr=0.7, momentum=0.9))
    aggregator, anchor_N = begun(plan)
    expected_N = anchor_N.clone().requires_grad_(True)
    optimizer = torch.optim.SGD([expected_N], lr=0.7, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(3)
    for number in range(6):
        if number == 3:
            tensors, facts = aggregator.state()
            aggregator = Aggregator(plan, FakeClock())
            aggregator.restore(tensors, facts)
            for island in "ab":
                assert aggregator.join(island, replace(HERE, rounds=(3,))).send == ()
        progress_N = torch.randn(N, generator=generator)
        for island in "ab":
            payload = CODECS["fp32"].encode(progress_N)
            # A member since this round began gives, awaited or not.
            aggregator.offer(Offer(island, 0, number, 1.0, payload))
            if number == 3:
                break
        expected_N.grad = -progress_N
        optimizer.step()
        assert aggregator.take("a", 0, number, 0.0)
    fetched_N = CODECS["fp32"].decode(aggregator.fetch("a", 0).payload, N)
    assert torch.allclose(fetched_N, expected_N.detach(), atol=1e-5)


def test_after_a_death_the_leader_goes_on_leading_though_it_comes_last() -> None:
    kept: list[dict[str, Any]] = []
    clock = FakeClock()
    aggregator = Aggregator(PLAN, clock, kept.append)
    for island in "ab":
        aggregator.join(island, HERE)
        assert aggregator.lease(island, 1, 0).leader == "a"
    later = Aggregator(PLAN, clock)
    later.restore_rows(kept[-1], kept[-1]["leader"])
    for island in "ba":
        later.join(island, replace(HERE, rounds=(0,)))
        assert later.lease(island, 1, 0).leader == "a"
    later.leave("a", 0)
    assert later.lease("b", 1, 0).leader == "b"


def test_a_leader_that_never_comes_again_is_waited_for_in_vain_once() -> None:
    clock = FakeClock()
    later = Aggregator(PLAN, clock)
    later.restore_rows({"line": 0, "open": []}, "a")
    later.join("b", replace(HERE, rounds=(0,)))
    assert later.lease("b", 1, 0).leader == "a"
    clock.advance(PLAN.silence_s)
    assert later.lease("b", 1, 0).leader == "b"


def test_momentum_moves_nothing_where_nobody_learned() -> None:
    plan = replace(PLAN, wire="fp32", outer=OuterStep("nesterov"))
    aggregator, _ = begun(plan)
    payload = CODECS["fp32"].encode(torch.ones(N))
    for number, n_tokens in enumerate((1.0, 0.0)):
        before_N = CODECS["fp32"].decode(aggregator.fetch("a", 0).payload, N)
        for island in "ab":
            aggregator.offer(Offer(island, 0, number, n_tokens, payload))
        after_N = CODECS["fp32"].decode(aggregator.fetch("a", 0).payload, N)
        assert torch.allclose(before_N, after_N, atol=1e-5) == (n_tokens == 0.0)


def test_a_line_may_begin_in_its_midst() -> None:
    aggregator = Aggregator(RoundPlan(n_rows=100, granule=10, first_row=40))
    aggregator.join("a", Standing((1,)))
    lease = aggregator.lease("a", 20, 0)
    assert (lease.start, lease.stop, lease.n_done) == (40, 60, 40)


def test_what_does_not_fit_is_refused() -> None:
    aggregator, _ = begun()
    with pytest.raises(ConflictError, match="fragments"):
        aggregator.join("c", Standing(sizes=(N + 1,)))
    with pytest.raises(CorruptError):
        aggregator.offer(Offer("a", 0, 0, 1.0, b"short"))
    for n_tokens in (math.nan, math.inf, -1.0):
        with pytest.raises(CorruptError, match="tokens"):
            aggregator.offer(offer("a", torch.ones(N), n_tokens=n_tokens))
    for fragment in (-1, 1):
        with pytest.raises(NotAMemberError, match="fragment"):
            aggregator.take("a", fragment, 0, 0.0)
    poison_N = torch.full((N,), math.nan)
    with pytest.raises(CorruptError, match="not finite"):
        aggregator.send("a", Anchor(0, 5, poison_N.numpy().tobytes()))
    with pytest.raises(NotAMemberError, match="ahead"):
        aggregator.offer(offer("a", torch.ones(N), number=7))
    with pytest.raises(NotAMemberError, match="no member"):
        aggregator.offer(offer("stranger", torch.ones(N)))


@pytest.fixture
def served() -> Iterator[tuple[Aggregator, AggregatorServer]]:
    aggregator = Aggregator(PLAN)
    server = AggregatorServer(aggregator, "127.0.0.1", "the secret")
    yield aggregator, server
    server.close()


def over_tcp(server: AggregatorServer, secret: str = "the secret") -> TcpRounds:
    return TcpRounds(OuterLink(*server.address, secret, "a"), 1 << 20, silence_s=4.0)


def test_over_tcp_all_is_as_in_one_process(served: tuple[Aggregator, AggregatorServer]) -> None:
    rounds: Rounds = over_tcp(served[1])
    assert rounds.join("a", HERE).send == (0,)
    rounds.send("a", Anchor(0, 0, CODECS["fp32"].encode(torch.ones(N))))
    assert rounds.join("b", HERE).fetch == (0,)
    assert torch.equal(CODECS["fp32"].decode(rounds.fetch("b", 0).payload, N), torch.ones(N))
    assert rounds.lease("a", 7, 0).n_rows == 7
    assert rounds.take("a", 0, 0, 0.01) is None
    taken: list[Update | None] = []
    waiting = threading.Thread(target=lambda: taken.append(rounds.take("a", 0, 0, 1.0)))
    waiting.start()
    for island in "ab":
        assert rounds.offer(offer(island, torch.ones(N))) == 0
    waiting.join()
    assert decoded(taken[0]).min() > 0.98
    rounds.leave("b", 0)
    with pytest.raises(NotAMemberError):
        rounds.lease("b", 1, 0)
    assert isinstance(rounds, TcpRounds)
    rounds.close()


def test_over_tcp_with_another_secret(served: tuple[Aggregator, AggregatorServer]) -> None:
    with pytest.raises(AuthError, match="secrets"):
        over_tcp(served[1], "a guess").join("a", HERE)


def test_over_tcp_with_nobody_there(served: tuple[Aggregator, AggregatorServer]) -> None:
    rounds = over_tcp(served[1])
    rounds.join("a", HERE)
    served[1].close()
    with pytest.raises(NotRunningError):
        rounds.lease("a", 1, 0)
    with pytest.raises(NotRunningError):
        over_tcp(served[1]).lease("a", 1, 0)
