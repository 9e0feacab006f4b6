from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.engine.draws import uniform
from mulm.engine.request import Sequence
from mulm.engine.sampler import sample
from mulm.messages import GenerateRequest, SamplingParams

N = 4000
LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])


def row(params: SamplingParams, seed: int = 0, prompt=(0,), answer=(), index: int = 0) -> Sequence:
    sequence = Sequence(GenerateRequest("r", tuple(prompt), params), index, seed, 0.0)
    sequence.token_ids += answer
    return sequence


def ids_of(logits, rows) -> list[int]:
    return [s.token_id for s in sample(logits, rows)]


def draw(params: SamplingParams, logits=LOGITS, n: int = N) -> torch.Tensor:
    ids = ids_of(logits.expand(n, -1), [row(params, seed) for seed in range(n)])
    return torch.bincount(torch.tensor(ids), minlength=len(logits)) / n


def slow_pick(logits_V: torch.Tensor, sequence: Sequence) -> tuple[int, float]:
    """The token by sorting everything, and how near the draw was to a border between two."""
    p = sequence.sampling
    logits = logits_V.double() / p.temperature
    order = sorted(range(len(logits)), key=lambda i: -float(logits[i]))
    kept = order[: p.top_k or len(order)]
    largest = float(logits[order[0]])
    kept = [i for i in kept if float(logits[i]) - largest >= math.log(p.min_p or 1e-300)]
    weights = [math.exp(float(logits[i]) - largest) for i in kept]
    total, before, n = sum(weights), 0.0, 0
    while n < len(kept) and (n == 0 or before < p.top_p * total):
        before += weights[n]
        n += 1
    kept, weights = kept[:n], weights[:n]
    if not (p.top_k or p.min_p or p.top_p < 1):
        pairs = sorted(zip(kept, weights, strict=True))
        kept, weights = [i for i, _ in pairs], [w for _, w in pairs]
    target = uniform(sequence.seed, sequence.index, sequence.n_generated) * sum(weights)
    at, distance = 0.0, math.inf
    chosen = kept[-1]
    for i, weight in zip(kept, weights, strict=True):
        at += weight
        distance = min(distance, abs(at - target) / sum(weights))
        if at > target and chosen == kept[-1]:
            chosen = i
            break
    return chosen, distance


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    vocab_size=st.sampled_from([3, 200, 700]),
    temperature=st.sampled_from([0.3, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 5, 150, 1000]),
    top_p=st.sampled_from([1.0, 0.9, 0.3, 1e-6]),
    min_p=st.sampled_from([0.0, 0.01, 0.5]),
)
def test_agrees_with_sorting_everything(seed, vocab_size, temperature, top_k, top_p, min_p):
    logits = torch.randn(vocab_size, generator=torch.Generator().manual_seed(seed)) * 2
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    one = row(params, seed, answer=[1, 2])
    wanted, distance = slow_pick(logits, one)
    if distance > 1e-5:  # nearer than that, fp32 and fp64 may differ
        assert ids_of(logits[None], [one]) == [wanted]


def test_zero_temperature_is_greedy():
    assert ids_of(LOGITS[None], [row(SamplingParams(temperature=0))]) == [0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 5])
def test_frequencies_follow_the_tempered_softmax(temperature, top_k):
    seen = draw(SamplingParams(temperature=temperature, top_k=top_k))
    assert torch.allclose(seen.double(), (LOGITS / temperature).softmax(-1).double(), atol=0.03)


def test_impossible_tokens_never_come():
    assert draw(SamplingParams(temperature=2.0))[4] == 0


def test_top_p_keeps_the_smallest_set_that_holds_it():
    assert (draw(SamplingParams(top_p=0.5)) > 0).tolist() == [True, False, False, False, False]
    assert (draw(SamplingParams(top_p=0.7)) > 0).tolist() == [True, True, False, False, False]


def test_min_p_keeps_what_is_likely_beside_the_likeliest():
    assert (draw(SamplingParams(min_p=0.3)) > 0).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("vocab_size", [100, 5000])
def test_a_row_does_not_depend_on_its_neighbours(vocab_size):
    logits = torch.randn(6, vocab_size, generator=torch.Generator().manual_seed(3))
    params = [
        SamplingParams(),
        SamplingParams(top_p=0.5),
        SamplingParams(temperature=0),
        SamplingParams(top_k=700, temperature=1.3),
        SamplingParams(temperature=0.7, logprobs=3),
        SamplingParams(frequency_penalty=1.0, logit_bias=((4, 3.0),)),
    ]
    rows = [row(p, seed=i, answer=[4, 4]) for i, p in enumerate(params)]
    together = sample(logits, rows)
    assert together == [sample(logits[i : i + 1], [one])[0] for i, one in enumerate(rows)]


def test_extreme_logits_and_temperatures_stay_finite():
    logits = torch.tensor([1e4, -1e4, 0.0])
    assert draw(SamplingParams(temperature=1e-4), logits, 10)[0] == 1
    assert draw(SamplingParams(temperature=1e-4, top_p=0.9), logits, 10)[0] == 1


def test_choices_and_positions_draw_differently():
    drawn = {uniform(1, index, position) for index in range(30) for position in range(30)}
    assert len(drawn) == 900
    assert abs(sum(drawn) / 900 - 0.5) < 0.03


@pytest.mark.parametrize(
    ("params", "answer", "wanted"),
    [
        ({"repetition_penalty": 4.0}, [], 1),  # 0 stands in the prompt: 2 / 4 < 1
        ({"presence_penalty": 1.5}, [0], 1),
        ({"frequency_penalty": 0.6}, [0, 0], 1),
        ({"frequency_penalty": 0.6}, [0], 0),
        ({"logit_bias": ((2, 5.0),)}, [], 2),
        ({"logit_bias": ((0, -100.0), (1, -100.0))}, [], 2),
        ({"min_tokens": 2, "stop_token_ids": (0, 1)}, [3], 2),
        ({"min_tokens": 2, "stop_token_ids": (0, 1)}, [3, 3], 0),
    ],
)
def test_what_a_request_changes(params, answer, wanted):
    one = row(SamplingParams(temperature=0, max_tokens=9, **params), answer=answer)
    assert ids_of(LOGITS[None].clone(), [one]) == [wanted]


def test_logprobs_are_those_of_the_model_alone():
    params = SamplingParams(temperature=0, logprobs=2, logit_bias=((3, 50.0),))
    sampled = sample(LOGITS[None], [row(params)])[0]
    wanted = LOGITS.log_softmax(-1)
    assert sampled.token_id == 3
    assert sampled.logprob.logprob == pytest.approx(float(wanted[3]))
    assert [i for i, _ in sampled.logprob.top] == [0, 1]
    assert sampled.logprob.top[0][1] == pytest.approx(float(wanted[0]))


class OnlyToken:
    """A constraint that allows one token."""

    is_done = is_broken = False

    def __init__(self, token_id: int) -> None:
        self.token_id = token_id

    def fill_mask(self, mask) -> None:
        mask[self.token_id // 32] = 1 << (self.token_id % 32)

    def accept(self, token_id: int) -> None:
        assert token_id == self.token_id


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_decides(temperature):
    one = row(SamplingParams(temperature=temperature))
    one.constraint = OnlyToken(40)
    assert ids_of(torch.zeros(1, 70), [one]) == [40]
