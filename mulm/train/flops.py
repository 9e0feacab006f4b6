"""Arithmetic of a training step, and how much of it a device could do: what MFU is made of.

Called by the run's metrics and by benchmarks. Invariants: operations are counted as PaLM's appendix
B does (Chowdhery et al., 2022), six for each weight of a matrix and token and whole squares of
attention, so that shares of the peak are comparable with those that others publish; measuring takes
no random number from torch's own generator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.train.settled import SettledConfig


@dataclass(frozen=True, slots=True)
class _Effort:
    """How a device is measured: matrices that fill it, for as short as gives a steady number."""

    side: int
    seconds: float
    n_at_once: int
    """Products between two looks at the clock."""


_EFFORT = {"cpu": _Effort(768, 0.5, 4), "cuda": _Effort(8192, 1.0, 4)}


def flops_per_token(shape: MicroLMConfig, seq_len: int) -> int:
    """Operations of forward and backward for one token of a row of `seq_len`.

    The embedding counts once, as the output's matrix: reading a row of it is no arithmetic. What
    is computed again to save memory does not count.
    """
    matrices = sum(rows * columns for rows, columns in shape.block_matrices)
    weights = shape.n_layers * matrices + shape.vocab_size * shape.d_model
    attention = shape.n_layers * shape.n_heads * shape.d_head * seq_len
    return 6 * weights + 12 * attention


def run_flops_per_token(config: SettledConfig, model: nn.Module) -> int | None:
    """The same for the model of a run; None where the formula does not say what is computed.

    It does not for other models than a MicroLM, beside frozen weights, and for pairs of answers,
    whose rows are shorter than `seq_len`. A teacher's forward pass is not the run's own model's:
    it does not count.
    """
    if not isinstance(model, MicroLM) or config.lora or config.preference:
        return None
    return flops_per_token(model.config, config.seq_len)


def measured_peak_flops(
    device: torch.device, dtype: torch.dtype, now_s: Callable[[], float] = time.perf_counter
) -> float:
    """Operations a second of large square matrix products, the best of many short groups."""
    effort = _EFFORT[device.type]
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(effort.side, effort.side, generator=generator).to(device, dtype)
        for _ in range(2)
    )
    a @ b
    best_s = min(_group_seconds(a, b, effort, now_s))
    return 2.0 * effort.side**3 * effort.n_at_once / best_s


def _group_seconds(
    a: torch.Tensor, b: torch.Tensor, effort: _Effort, now_s: Callable[[], float]
) -> Iterator[float]:
    """What some products take, again and again: other work interrupts most of them, not all."""
    _wait(a.device)
    end_s = now_s() + effort.seconds
    started_s = now_s()
    while started_s < end_s:
        for _ in range(effort.n_at_once):
            a @ b
        _wait(a.device)
        ended_s = now_s()
        yield ended_s - started_s
        started_s = ended_s


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
