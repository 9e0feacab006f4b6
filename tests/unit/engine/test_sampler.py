from __future__ import annotations

import pytest
import torch

from mulm.engine.sampler import sample
from mulm.messages import SamplingParams

N = 4000
LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])


def draw(params: SamplingParams, logits=LOGITS, n: int = N) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = sample(logits.expand(n, -1), [params] * n, [generator] * n)
    return torch.bincount(torch.tensor(ids), minlength=len(logits)) / n


def test_zero_temperature_is_greedy_and_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert sample(LOGITS[None], [SamplingParams(temperature=0)], [generator]) == [0]
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 5])
def test_frequencies_follow_the_tempered_softmax(temperature, top_k):
    seen = draw(SamplingParams(temperature=temperature, top_k=top_k))
    assert torch.allclose(seen.double(), (LOGITS / temperature).softmax(-1).double(), atol=0.03)


def test_impossible_tokens_never_come():
    assert draw(SamplingParams(temperature=2.0))[4] == 0


def test_top_k_keeps_the_likeliest():
    seen = draw(SamplingParams(top_k=2))
    assert torch.allclose(seen[:2], LOGITS[:2].softmax(-1), atol=0.03)
    assert seen[2:].sum() == 0


def test_top_p_keeps_the_smallest_set_that_holds_it():
    probabilities = LOGITS.softmax(-1)  # .64 .24 .09 .03 0
    assert (draw(SamplingParams(top_p=0.5)) > 0).tolist() == [True, False, False, False, False]
    assert (draw(SamplingParams(top_p=0.7)) > 0).tolist() == [True, True, False, False, False]
    assert float(probabilities[:2].sum()) > 0.7


def test_a_tiny_top_p_still_keeps_one():
    assert draw(SamplingParams(top_p=1e-9))[0] == 1


def test_a_row_does_not_depend_on_its_neighbours():
    logits = torch.randn(4, 100, generator=torch.Generator().manual_seed(3))
    params = [
        SamplingParams(),
        SamplingParams(top_p=0.5),
        SamplingParams(temperature=0),
        SamplingParams(top_k=7, temperature=1.3),
    ]

    def generators():
        return [torch.Generator().manual_seed(i) for i in range(4)]

    together = sample(logits, params, generators())
    single = [
        sample(logits[i : i + 1], params[i : i + 1], generators()[i : i + 1])[0] for i in range(4)
    ]
    assert together == single


def test_extreme_logits_and_temperatures_stay_finite():
    logits = torch.tensor([1e4, -1e4, 0.0])
    assert draw(SamplingParams(temperature=1e-4), logits, 10)[0] == 1
    assert draw(SamplingParams(temperature=1e-4, top_p=0.9), logits, 10)[0] == 1
