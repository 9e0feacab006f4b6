from __future__ import annotations

import pytest

from mulm.engine.budget import StepBudget
from mulm.engine.engine import Engine
from mulm.engine.fake import FakeConfig, FakeModel
from mulm.messages import GenerateRequest, SamplingParams


def taught(streams_s=0.010, token_s=0.001, longest_s=0.05) -> StepBudget:
    budget = StepBudget(256, longest_s)
    for _ in range(30):
        budget.learn(8, 0, streams_s)
        budget.learn(8, 64, streams_s + 64 * token_s)
    return budget


def test_a_step_lasts_as_long_as_it_may_and_no_longer():
    assert StepBudget(256, 0.05).tokens(8) == 256, "nothing is known yet"
    assert taught().tokens(8) == 32
    assert taught(longest_s=0.1).tokens(8) == 80
    assert taught(token_s=1e-6).tokens(8) == 256


@pytest.mark.parametrize(("factor", "wanted"), [(4.0, 16), (0.1, 256)])
def test_a_machine_that_becomes_slower_or_faster_is_noticed(factor, wanted):
    budget = taught()
    for _ in range(30):
        budget.learn(8, 0, factor * 0.010)
        budget.learn(8, 64, factor * (0.010 + 64 * 0.001))
    assert budget.tokens(8) == wanted


def test_a_single_slow_step_is_not_the_rule():
    budget = taught()
    budget.learn(8, 64, 10 * (0.010 + 64 * 0.001))
    assert budget.tokens(8) == 16
    for _ in range(20):
        budget.learn(8, 64, 0.010 + 64 * 0.001)
    assert budget.tokens(8) == 32


def test_without_streams_nobody_waits():
    assert taught().tokens(0) == 256


def test_without_a_bound_no_clock_matters():
    assert taught(longest_s=None).tokens(8) == 256


@pytest.mark.parametrize("most", [5, 256])
def test_a_prompt_comes_to_its_end_however_slow_the_machine(most):
    budget = StepBudget(most, 0.05)
    budget.learn(1, 64, 100.0)
    assert budget.tokens(1) == min(most, 16)


def test_few_tokens_tell_nothing():
    budget = StepBudget(256, 0.05)
    budget.learn(1, 2, 100.0)
    assert budget.tokens(1) == 256


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class TimedModel(FakeModel):
    """A step takes 8 ms, and 1 ms more for each token of a prompt."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(FakeConfig(max_seq_len=2000))
        self._clock = clock
        self.steps_s: list[float] = []

    def extend(self, batch, cache):
        sizes = (batch.begins_S1[1:] - batch.begins_S1[:-1]).tolist()
        seconds = 0.008 + 0.001 * sum(size for size in sizes if size > 1)
        self._clock.now_s += seconds
        self.steps_s.append(seconds)
        return super().extend(batch, cache)


def test_streams_wait_no_longer_than_they_should_while_a_long_prompt_is_read():
    clock = Clock()
    model = TimedModel(clock)
    engine = Engine(model, n_slots=4, clock=clock)
    engine.add(GenerateRequest("stream", (1, 2), SamplingParams(max_tokens=900, temperature=0)))
    engine.add(GenerateRequest("first", tuple(range(40)), SamplingParams(max_tokens=1)))
    while engine.n_unfinished > 1:
        engine.step()
    model.steps_s.clear()
    engine.add(GenerateRequest("long", (3,) * 1000, SamplingParams(max_tokens=1)))
    while engine.n_unfinished > 1:
        engine.step()
    assert len(model.steps_s) > 20
    assert max(model.steps_s) < 0.06
