from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.engine.logprobs import logprobs_of
from mulm.engine.request import Sequence
from mulm.engine.sampler import sample
from mulm.messages import GenerateRequest, SamplingParams


def tied_logits(seed: int, n_rows: int, vocab_size: int, n_levels: int) -> torch.Tensor:
    """Few different numbers, as bf16 gives where many tokens are about as likely."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, n_levels, (n_rows, vocab_size), generator=generator).float()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    vocab_size=st.sampled_from([5, 300, 512]),
    n_levels=st.sampled_from([1, 2, 7, 10_000]),
    n_top=st.sampled_from([1, 2, 5, 20]),
)
def test_the_likeliest_are_those_of_sorting_everything(seed, vocab_size, n_levels, n_top):
    logits = tied_logits(seed, 3, vocab_size, n_levels)
    for values, found in zip(logits.tolist(), logprobs_of(logits, [0] * 3, n_top), strict=True):
        wanted = sorted(range(vocab_size), key=lambda i: (-values[i], i))[:n_top]
        assert [token_id for token_id, _ in found.top] == wanted
        differences = [found.logprob - logprob for _, logprob in found.top]
        assert differences == pytest.approx([values[0] - values[i] for i in wanted], abs=1e-4)


def test_a_greedy_token_is_the_first_of_its_alternatives():
    logits = tied_logits(0, 8, 4096, 3)
    params = SamplingParams(temperature=0, logprobs=2)
    rows = [Sequence(GenerateRequest("r", (0,), params), 0, 0)] * len(logits)
    for sampled in sample(logits, rows):
        assert sampled.logprob is not None
        assert sampled.logprob.top[0][0] == sampled.token_id


def test_rows_that_are_no_numbers_are_told_as_they_are():
    logits = torch.tensor([[float("nan")] * 3, [0.0, float("-inf"), float("-inf")]])
    broken, forbidden = logprobs_of(logits, [1, 1], 3)
    assert len(broken.top) == 3
    assert [token_id for token_id, _ in forbidden.top] == [0, 1, 2]
