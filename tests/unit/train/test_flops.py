"""Arithmetic of a training step, and the peak of a device."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from mulm.model.compute import Compute
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.train.flops import flops_per_token, measured_peak_flops

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


def test_peak_is_that_of_the_fastest_trial() -> None:
    times = iter([0.0, 1.0, 10.0, 12.0, 20.0, 22.0])
    peak = measured_peak_flops(torch.device("cpu"), torch.float32, lambda: next(times))
    assert peak == 2 * 1024**3 * 4 / 1.0
