from __future__ import annotations

from collections.abc import Callable

import pytest

from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.engine.payoff import Payoff
from mulm.engine.speculation import Speculation
from mulm.messages import GenerateRequest, SamplingParams


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class TimedModel(FakeModel):
    """Takes a time for a step and one for each row."""

    def __init__(self, clock: Clock, step_s: float, row_s: float) -> None:
        super().__init__(FakeConfig(vocab_size=50, max_seq_len=4000))
        self.clock, self.step_s, self.row_s = clock, step_s, row_s

    def extend(self, batch, cache):
        self.clock.now_s += self.step_s + self.row_s * len(batch.ids_T)
        return super().extend(batch, cache)


class Proposer:
    """Guesses of which some are right: it asks the model itself."""

    def __init__(self, answers: dict[str, tuple[int, ...]], is_right: Callable[[], bool]) -> None:
        self.answers, self.is_right, self.n_asked = answers, is_right, 0

    def start(self, n_slots: int, max_seq_len: int, vocab_size: int) -> None: ...

    def propose(self, sequences, counts) -> list[list[int]]:
        self.n_asked += 1
        return [
            [
                token_id if self.is_right() else (token_id + 1) % 50
                for token_id in self.answers[s.request.request_id][s.n_generated :][:n]
            ]
            for s, n in zip(sequences, counts, strict=True)
        ]


def run(row_s: float, n_streams: int, is_right: Callable[[], bool], n_tokens: int = 1500):
    requests = [
        GenerateRequest(f"r{n}", (n,), SamplingParams(n_tokens, 0.0), 1e9) for n in range(n_streams)
    ]
    clock = Clock()
    plain = Engine(TimedModel(clock, 1.0, row_s), n_streams, clock=clock)
    answers = {name: x.token_ids for name, x in plain.generate(requests).items()}
    plain_s, clock.now_s = clock.now_s, 0.0
    model = TimedModel(clock, 1.0, row_s)
    proposer = Proposer(answers, is_right)
    engine = Engine(model, n_streams, clock=clock, speculation=Speculation(proposer))
    assert {name: x.token_ids for name, x in engine.generate(requests).items()} == answers
    return proposer, len(model.batches), plain_s / clock.now_s


@pytest.mark.parametrize("n_streams", [1, 3])
def test_it_ends_where_nothing_is_accepted(n_streams):
    proposer, n_steps, speedup = run(1.0, n_streams, lambda: False)
    assert proposer.n_asked < 0.05 * n_steps
    assert speedup > 0.95


def test_it_goes_on_where_it_pays():
    _, n_steps, speedup = run(0.01, 1, lambda: True)
    assert n_steps < 400
    assert speedup > 4


def test_right_guesses_that_cost_too_much_are_not_made():
    """Half of them are right, and each costs as much as a step."""
    turn = iter(range(10**9))
    proposer, n_steps, speedup = run(8.0, 1, lambda: next(turn) % 2 == 0)
    assert proposer.n_asked < 0.25 * n_steps
    assert speedup > 0.9


def steps(payoff: Payoff, n: int, guessed: tuple[int, float], n_works: int = 1) -> int:
    """How many of so many steps had guesses, which give tokens and take seconds."""
    n_guessed = 0
    for _ in range(n):
        is_guessed = payoff.is_wanted(n_works)
        n_guessed += is_guessed
        n_tokens, seconds = guessed if is_guessed else (n_works, 1.0)
        payoff.note(n_works, n_tokens, seconds, is_guessed=is_guessed)
    return n_guessed


def test_the_slower_way_gets_few_steps_and_the_other_its_chance_again():
    payoff = Payoff()
    assert steps(payoff, 5000, (1, 2.0)) < 150
    assert steps(payoff, 1000, (3, 1.1)) > 400, "now they pay"
    assert steps(payoff, 1000, (3, 1.1)) > 900
    assert steps(payoff, 2000, (1, 1.5)) < 200, "and no longer"


def test_sizes_of_batches_are_apart():
    payoff = Payoff()
    steps(payoff, 50, (40, 2.0), n_works=32)
    steps(payoff, 50, (2, 1.1), n_works=1)
    assert payoff.is_wanted(1)
    assert not payoff.is_wanted(32)
    assert not payoff.is_wanted(20), "like 32"
    assert payoff.is_wanted(4), "not known yet"


def test_a_clock_that_stands_still_forbids_nothing():
    payoff = Payoff()
    for _ in range(8):
        payoff.note(1, 1, 0.0, is_guessed=True)
        payoff.note(1, 1, 0.0, is_guessed=False)
    assert payoff.is_wanted(1)
