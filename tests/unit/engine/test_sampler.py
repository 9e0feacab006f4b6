from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.engine.draws import exponentials
from mulm.engine.request import Sequence
from mulm.engine.sampler import sample
from mulm.messages import GenerateRequest, SamplingParams

N = 4000
LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])


def row(params: SamplingParams, seed: int = 0, prompt=(0,), answer=(), index: int = 0) -> Sequence:
    sequence = Sequence(GenerateRequest("r", tuple(prompt), params), index, seed)
    sequence.token_ids += answer
    return sequence


def ids_of(logits, rows, ahead=None) -> list[int]:
    return [s.token_id for s in sample(logits.clone(), rows, ahead)]


def draw(params: SamplingParams, logits=LOGITS, n: int = N) -> torch.Tensor:
    ids = ids_of(logits.expand(n, -1), [row(params, seed) for seed in range(n)])
    return torch.bincount(torch.tensor(ids), minlength=len(logits)) / n


def random_logits(seed: int, vocab_size: int, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(vocab_size, generator=torch.Generator().manual_seed(seed)) * scale


# The slow reference: plain Python over everything sorted, in fp64.


def slow_kept(logits_V: torch.Tensor, p: SamplingParams) -> tuple[dict[int, float], float]:
    """The weights of what truncation leaves, and how near another token was to the border."""
    x = logits_V.double().numpy() / p.temperature
    weights = np.exp(x - x.max())
    order = np.sort(weights)[::-1]
    least, nearest = 0.0, math.inf
    if p.min_p:
        least = p.min_p
        nearest = float(np.abs(weights / least - 1).min())
    if p.top_k and p.top_k < len(order):
        least = max(least, order[p.top_k - 1])
    left = order[order >= least]
    if p.top_p < 1:
        ends = left.cumsum()
        n = int(np.argmax(ends >= p.top_p * ends[-1]))
        nearest = min(nearest, float(np.abs(ends / ends[-1] - p.top_p).min()))
        least = max(least, left[n])
    return {i: float(w) for i, w in enumerate(weights) if w >= least * (1 - 1e-12)}, nearest


def slow_pick(logits_V: torch.Tensor, sequence: Sequence) -> tuple[int, float]:
    """The token, and by how little it was not another."""
    kept, nearest = slow_kept(logits_V, sequence.sampling)
    n_blocks = -(-len(logits_V) // 256)
    who = (sequence.seed, sequence.index, sequence.n_generated)
    times = exponentials([who], n_blocks + 256)[0].tolist()
    blocks = Counter()
    for token_id, weight in kept.items():
        blocks[token_id // 256] += weight
    scores = {b: weight / times[b] for b, weight in blocks.items()}
    block = max(scores, key=scores.__getitem__)
    inside = {i: w / times[n_blocks + i % 256] for i, w in kept.items() if i // 256 == block}
    for found in (scores, inside):
        best = sorted(found.values())[-2:]
        nearest = min(nearest, 1 - best[0] / best[1] if len(best) == 2 else math.inf)
    return max(inside, key=inside.__getitem__), nearest


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    vocab_size=st.sampled_from([3, 200, 700, 8192]),
    scale=st.sampled_from([0.1, 2.0, 10.0]),
    temperature=st.sampled_from([0.3, 1.0, 3.0]),
    top_k=st.sampled_from([0, 0, 1, 5, 128, 150, 10_000]),
    top_p=st.sampled_from([1.0, 0.9, 0.3, 1e-6]),
    min_p=st.sampled_from([0.0, 0.0, 0.01, 0.5]),
)
def test_agrees_with_sorting_everything(seed, vocab_size, scale, temperature, top_k, top_p, min_p):
    logits = random_logits(seed, vocab_size, scale)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    one = row(params, seed, answer=[1, 2], index=seed % 3)
    wanted, nearest = slow_pick(logits, one)
    if nearest > 1e-5:  # nearer than that, fp32 and fp64 may differ
        assert ids_of(logits[None], [one]) == [wanted]


@pytest.mark.parametrize("vocab_size", [40, 16_384])
@pytest.mark.parametrize("n_equal", [20, 140])
def test_ties_with_the_last_token_kept_are_kept(vocab_size, n_equal):
    logits = torch.zeros(vocab_size)
    logits[:n_equal] = 5.0
    seen = draw(SamplingParams(top_k=2), logits, 400)
    assert int((seen[: min(n_equal, vocab_size)] > 0).sum()) > min(n_equal, vocab_size) * 0.7
    assert seen[n_equal:].sum() == 0 or n_equal >= vocab_size


def test_of_equal_logits_the_lowest_id_is_greedy():
    for vocab_size in (300, 512):
        logits = torch.zeros(3, vocab_size)
        logits[1, [290, 40, 260]] = 1.0
        logits[2, [299, 258]] = 1.0
        greedy = [row(SamplingParams(temperature=0))] * 3
        assert ids_of(logits, greedy) == [0, 40, 258]


# Statistics: chi-square with fixed seeds, so the outcome never changes.


def chi_square(seen: torch.Tensor, wanted: torch.Tensor, n: int = N) -> float:
    """Standard deviations by which the statistic exceeds its mean."""
    possible = wanted > 0
    assert not seen[~possible].any()
    statistic = float((n * (seen - wanted)[possible] ** 2 / wanted[possible]).sum())
    freedom = int(possible.sum()) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom) if freedom else 0.0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("params", [{}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.2}])
def test_frequencies_follow_what_is_left_of_the_tempered_softmax(temperature, params):
    logits = random_logits(5, 30, 1.5)
    sampling = SamplingParams(temperature=temperature, **params)
    kept, _ = slow_kept(logits, sampling)
    wanted = torch.zeros(30)
    wanted[list(kept)] = torch.tensor(list(kept.values()))
    assert chi_square(draw(sampling, logits), wanted / wanted.sum()) < 4


def test_frequencies_of_blocks_and_of_tokens_in_them():
    logits = random_logits(6, 2048, 1.0)
    wanted = logits.softmax(-1)
    seen = draw(SamplingParams(), logits, 20_000)
    assert chi_square(seen.view(8, -1).sum(-1), wanted.view(8, -1).sum(-1), 20_000) < 4
    assert chi_square(seen.view(8, -1).sum(0), wanted.view(8, -1).sum(0), 20_000) < 4


def test_positions_and_choices_are_independent():
    first = [row(SamplingParams(), seed, index=0) for seed in range(N)]
    later = [row(SamplingParams(), seed, index=1, answer=[0]) for seed in range(N)]
    logits = torch.zeros(N, 4)
    pairs = torch.tensor(ids_of(logits, first)) * 4 + torch.tensor(ids_of(logits, later))
    seen = torch.bincount(pairs, minlength=16) / N
    assert chi_square(seen, torch.full((16,), 1 / 16)) < 4


def test_numbers_are_exponential_and_all_different():
    times = exponentials([(1, index, at) for index in range(9) for at in range(9)], 300)
    assert len(times.unique()) == times.numel()
    assert times.min() > 0
    assert abs(times.mean() - 1) < 0.03
    assert abs((times > 1).double().mean() - math.exp(-1)) < 0.01


def test_similar_distributions_mostly_draw_the_same():
    logits = random_logits(7, 4096)
    other = logits + 0.1 * random_logits(8, 4096)
    distance = float((logits.softmax(-1) - other.softmax(-1)).abs().sum()) / 2
    rows = [row(SamplingParams(), seed) for seed in range(1000)]
    pairs = zip(
        ids_of(logits.expand(1000, -1), rows), ids_of(other.expand(1000, -1), rows), strict=True
    )
    same = sum(a == b for a, b in pairs) / 1000
    assert same > (1 - distance) / (1 + distance) - 0.1


# One row and its neighbours.

WISHES = [
    SamplingParams(),
    SamplingParams(temperature=0),
    SamplingParams(top_p=0.5),
    SamplingParams(top_p=0.999),
    SamplingParams(top_k=700, temperature=1.3),
    SamplingParams(min_p=0.1, temperature=0.7),
    SamplingParams(temperature=0.7, logprobs=3),
    SamplingParams(temperature=0, logprobs=5),
    SamplingParams(frequency_penalty=1.0, logit_bias=((4, 3.0),)),
    SamplingParams(repetition_penalty=1.5, presence_penalty=0.2, top_k=9, logprobs=0),
    SamplingParams(temperature=0, min_tokens=9, stop_token_ids=(3, 5)),
]


@pytest.mark.parametrize("vocab_size", [100, 5000, 49_152])
@pytest.mark.parametrize("scale", [0.5, 5.0])
def test_a_row_does_not_depend_on_its_neighbours(vocab_size, scale):
    logits = random_logits(3, 2 * len(WISHES) * vocab_size, scale).view(-1, vocab_size)
    rows = [row(p, seed=i, answer=[4, 4]) for i, p in enumerate(WISHES * 2)]
    together = sample(logits.clone(), rows)
    alone = [sample(logits[i : i + 1].clone(), [one])[0] for i, one in enumerate(rows)]
    assert together == alone
    half = len(WISHES)
    assert together[half:] == sample(logits[half:].clone(), rows[half:])


@pytest.mark.parametrize("params", WISHES[:8])
def test_a_row_ahead_is_drawn_as_it_will_be(params):
    logits = random_logits(4, 900)[None]
    later = row(params, seed=3, answer=[5, 6, 7])
    assert ids_of(logits, [row(params, seed=3)], [3]) == ids_of(logits, [later])


def test_logits_without_a_view_are_fine():
    wide = random_logits(3, 8 * 1000).view(8, 1000)
    rows = [row(p, seed=i, answer=[4]) for i, p in enumerate(WISHES[:8])]
    assert sample(wide[:, :900].clone(), rows) == sample(wide[:, :900], rows)


# Extremes.


def test_impossible_tokens_never_come():
    assert draw(SamplingParams(temperature=2.0))[4] == 0


def test_top_p_keeps_the_smallest_set_that_holds_it():
    assert (draw(SamplingParams(top_p=0.5)) > 0).tolist() == [True, False, False, False, False]
    assert (draw(SamplingParams(top_p=0.7)) > 0).tolist() == [True, True, False, False, False]


def test_extreme_logits_and_temperatures_stay_finite():
    logits = torch.tensor([1e4, -1e4, 0.0])
    for temperature in (1e-300, 1e-4):
        assert draw(SamplingParams(temperature=temperature), logits, 10)[0] == 1
        assert draw(SamplingParams(temperature=temperature, top_p=0.9), logits, 10)[0] == 1
    assert (draw(SamplingParams(temperature=1e6), logits) > 0).all()


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize("vocab_size", [300, 16_384])
def test_broken_logits_give_some_token(value, vocab_size):
    logits = torch.full((len(WISHES), vocab_size), value)
    ids = ids_of(logits, [row(p) for p in WISHES])
    assert all(0 <= token_id < vocab_size for token_id in ids)


# What requests change.


def slow_change(logits: list[float], sequence: Sequence) -> list[float]:
    p, changed = sequence.sampling, list(logits)
    for token_id in set(sequence.token_ids):
        factor = p.repetition_penalty
        changed[token_id] *= 1 / factor if changed[token_id] > 0 else factor
    for token_id, count in Counter(sequence.token_ids[sequence.n_prompt :]).items():
        changed[token_id] -= p.presence_penalty + count * p.frequency_penalty
    for token_id, bias in p.logit_bias:
        changed[token_id] += bias
    if sequence.n_generated < p.min_tokens:
        for token_id in p.stop_token_ids:
            changed[token_id] = -math.inf
    return changed


numbers = st.sampled_from([0.0, 0.0, 0.7, -1.3])
ids = st.lists(st.integers(0, 19), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    prompt=ids.filter(len),
    answer=ids,
    more=ids,
    repetition=st.sampled_from([1.0, 1.5, 0.5]),
    presence=numbers,
    frequency=numbers,
    bias=st.dictionaries(st.integers(0, 19), st.sampled_from([-3.0, 2.0])),
    min_tokens=st.sampled_from([0, 5]),
)
def test_changes_are_those_of_the_plain_way(
    seed, prompt, answer, more, repetition, presence, frequency, bias, min_tokens
):
    params = SamplingParams(
        temperature=0, repetition_penalty=repetition, presence_penalty=presence,
        frequency_penalty=frequency, logit_bias=tuple(bias.items()), min_tokens=min_tokens,
        stop_token_ids=(2, 3),
    )  # fmt: skip
    logits = torch.stack([random_logits(seed, 20), random_logits(seed + 1, 20)])
    one, plain = row(params, prompt=prompt, answer=answer), row(SamplingParams(temperature=0))
    for _ in range(2):  # the second time what was counted before is gone on with
        wanted = slow_change(logits[1].tolist(), one)
        best = sorted(wanted)[-2:]
        if best[1] - best[0] > 1e-4:
            found = ids_of(logits, [plain, one])
            assert found == [int(logits[0].argmax()), wanted.index(best[1])]
        one.token_ids += more


def test_many_different_tokens_are_counted():
    one = row(SamplingParams(temperature=0, frequency_penalty=1.0), answer=[0])
    logits = torch.zeros(1, 1000)
    for token_id in range(1, 500):
        assert ids_of(logits, [one]) == [token_id]
        one.token_ids.append(token_id)


def test_logprobs_are_those_of_the_model_alone():
    params = SamplingParams(temperature=0, logprobs=2, logit_bias=((3, 50.0),))
    sampled = sample(LOGITS[None].clone(), [row(params)])[0]
    wanted = LOGITS.log_softmax(-1)
    assert sampled.token_id == 3
    assert sampled.logprob.logprob == pytest.approx(float(wanted[3]))
    assert [i for i, _ in sampled.logprob.top] == [0, 1]
    assert sampled.logprob.top[0][1] == pytest.approx(float(wanted[0]))


def test_logprobs_of_hardly_possible_tokens_are_exact():
    logits = torch.tensor([[0.0, -300.0, 200.0]])
    params = SamplingParams(temperature=0, logprobs=3, logit_bias=((1, 1000.0),))
    sampled = sample(logits, [row(params)])[0]
    assert sampled.logprob.logprob == pytest.approx(-500)


class Only:
    """A constraint that allows some tokens."""

    is_done = is_broken = False

    def __init__(self, *allowed: int) -> None:
        self.allowed = allowed

    def fill_mask(self, mask) -> None:
        for token_id in self.allowed:
            mask[token_id // 32] |= 1 << (token_id % 32) if token_id % 32 < 31 else -(1 << 31)

    def accept(self, token_id: int) -> None:
        assert token_id in self.allowed


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_decides(temperature):
    rows = [row(SamplingParams(temperature=temperature), seed=i) for i in range(100)]
    for one in rows[50:]:
        one.constraint = Only(31, 40, 69)
    drawn = ids_of(torch.zeros(100, 70), rows)
    assert set(drawn[50:]) == ({31, 40, 69} if temperature else {31})
    assert set(drawn[:50]) != set(drawn[50:])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_that_must_end_goes_before_min_tokens(temperature):
    params = SamplingParams(temperature=temperature, min_tokens=5, stop_token_ids=(3,))
    one = row(params)
    one.constraint = Only(3)
    assert ids_of(torch.zeros(1, 70), [one]) == [3]
    one.constraint = Only(3, 9)
    assert ids_of(torch.zeros(1, 70), [one]) == [9]
