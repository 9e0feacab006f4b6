"""Arithmetic of a training step, and how much of it a device could do: what MFU is made of.

Called by the run's metrics and by benchmarks. Invariant: operations are counted as PaLM's appendix
B does (Chowdhery et al., 2022), six for each weight of a matrix and token and whole squares of
attention, so that shares of the peak are comparable with those that others publish.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from mulm.model.config import MicroLMConfig

_SIDE = {"cpu": 1024, "cuda": 8192}
_SECONDS = {"cpu": 0.5, "cuda": 1.0}
_TRIALS = 3


def flops_per_token(shape: MicroLMConfig, seq_len: int) -> int:
    """Operations of forward and backward for one token of a row of `seq_len`.

    The embedding counts once, as the output's matrix: reading a row of it is no arithmetic. What
    is computed again to save memory does not count.
    """
    matrices = sum(rows * columns for rows, columns in shape.block_matrices)
    weights = shape.n_layers * matrices + shape.vocab_size * shape.d_model
    attention = shape.n_layers * shape.n_heads * shape.d_head * seq_len
    return 6 * weights + 12 * attention


def measured_peak_flops(
    device: torch.device, dtype: torch.dtype, now_s: Callable[[], float] = time.perf_counter
) -> float:
    """Operations a second of large square matrix products, the best of a few short trials."""
    side = _SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    a @ b
    return max(_trial(a, b, _SECONDS[device.type], now_s) for _ in range(_TRIALS))


def _trial(a: torch.Tensor, b: torch.Tensor, seconds: float, now_s: Callable[[], float]) -> float:
    _wait(a.device)
    started_s, n_products, spent_s = now_s(), 0, 0.0
    while spent_s < seconds:
        for _ in range(4):
            a @ b
        _wait(a.device)
        n_products, spent_s = n_products + 4, now_s() - started_s
    return 2.0 * len(a) ** 3 * n_products / spent_s


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
