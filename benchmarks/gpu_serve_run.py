"""What all rows of `benchmarks.gpu_serve` share: options, requests, and how time is taken.

Invariant: time is taken when the device has done its work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from mulm.messages import GenerateRequest, SamplingParams
from mulm.model.config import MicroLMConfig

_COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 26}
_COPIES = 10


@dataclass(frozen=True, slots=True)
class Options:
    """What all rows share."""

    device: str
    shape: MicroLMConfig
    dtype: torch.dtype
    batches: tuple[int, ...]
    n_prompt: int
    n_new: int
    n_prefill: int
    bytes_per_s: float
    flops_per_s: float


def bandwidth(device: str) -> float:
    """Bytes a second that copies move, read and written; the best of some."""
    source = torch.ones(_COPIED_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(_COPIES):
        wait(device)
        begun_s = time.perf_counter()
        target.copy_(source)
        wait(device)
        times.append(time.perf_counter() - begun_s)
    return 2.0 * _COPIED_BYTES[device] / min(times)


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """What they take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def greedy(name: str, ids: tuple[int, ...], n_new: int) -> GenerateRequest:
    """A request that takes the likeliest tokens."""
    return GenerateRequest(name, ids, SamplingParams(max_tokens=n_new, temperature=0))


def random_ids(options: Options, n_tokens: int, seed: int) -> tuple[int, ...]:
    """A text, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(options.shape.vocab_size, (n_tokens,), generator=generator).tolist())


def timed(act: Callable[[], Any], options: Options) -> float:
    """Seconds until the device has done it."""
    wait(options.device)
    begun_s = time.perf_counter()
    act()
    wait(options.device)
    return time.perf_counter() - begun_s


def wait(device: str) -> None:
    """Until the device has nothing to do."""
    if device == "cuda":
        torch.cuda.synchronize()
