"""Arithmetic of a training step, and the peak of a device."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from mulm.model.compute import Compute
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.model.transformer import Transformer
from mulm.testing import TINY_SHAPE, tiny_model
from mulm.train.config import TrainConfig
from mulm.train.flops import flops_per_token, measured_peak_flops, run_flops_per_token
from mulm.train.objectives.reversal import SHAPE as REVERSAL_SHAPE
from tests.unit.quick import shortest_s

SHAPE = MicroLMConfig(
    vocab_size=300, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, d_head=8, d_ff=96,
    max_seq_len=32,
)  # fmt: skip


def test_counts_what_torch_counts() -> None:
    model, ids_BT = MicroLM(SHAPE), torch.zeros(2, 32, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model.logits(model(ids_BT, Compute(attention="plain"))).sum().backward()
    assert counter.get_total_flops() == 64 * flops_per_token(SHAPE, 32)


def test_attention_grows_with_the_row() -> None:
    difference = flops_per_token(SHAPE, 64) - flops_per_token(SHAPE, 32)
    assert difference == 12 * 3 * 32 * 32


def test_peak_is_that_of_products_that_nothing_interrupts() -> None:
    times = iter([0.0, 0.0, 0.25, 0.375, 0.75])
    peak = measured_peak_flops(torch.device("cpu"), torch.float32, lambda: next(times))
    assert peak == 4 * 2 * 768**3 / 0.125


def test_measuring_is_short_and_takes_no_random_number() -> None:
    before = torch.get_rng_state()

    def measure() -> None:
        assert measured_peak_flops(torch.device("cpu"), torch.float32) > 1e6

    assert shortest_s(measure, 1.0) < 1.0
    assert torch.equal(before, torch.get_rng_state())


def test_only_what_the_formula_says_is_counted() -> None:
    values = {"name": "a", "dataset": "b", "seq_len": 16}
    config = TrainConfig.model_validate(values | {"model": TINY_SHAPE})
    model = tiny_model()
    assert run_flops_per_token(config, model) == flops_per_token(model.config, 16)
    assert run_flops_per_token(config, Transformer(REVERSAL_SHAPE)) is None
    for stage in ("lora", "preference"):
        staged = TrainConfig.model_validate(values | {"init_from": "c", stage: {}})
        assert run_flops_per_token(staged, model) is None
