"""How much of its devices a run uses: the share of their peak, and memory.

Made by the training loop for the metrics of worker 0. Invariant: what is not known is left out,
never guessed; all workers are taken to have a device like this one's.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mulm.train.context import TrainContext
from mulm.train.flops import run_flops_per_token
from mulm.train.peaks import device_peak, run_peak
from mulm.train.settled import SettledConfig

_MOST_MEASURED = 4


@dataclass(slots=True)
class Usage:
    """What turns a speed into a share.

    `flops_per_token` is None where the model's arithmetic is not known, and then the peak, that of
    all workers together, is 0. A peak that a run exceeds was measured beside other work: it is
    measured `again`, a few times at most.
    """

    device: torch.device
    flops_per_token: int | None = None
    peak_flops: float = 0.0
    reason: str = "the arithmetic of this model is not counted"
    again: Callable[[], float] | None = None
    _n_measured: int = 1

    @classmethod
    def of_run(
        cls, config: SettledConfig, context: TrainContext, model: nn.Module, dtype: torch.dtype
    ) -> Usage:
        """Look the device up, or measure it: on a CPU for half a second, on worker 0 alone."""
        if context.outer is not None:
            return cls(context.device, reason="other islands have a part of the tokens")
        flops = run_flops_per_token(config, model)
        if flops is None or context.rank:
            return cls(context.device)
        peak_flops, reason = run_peak(context.device, dtype, torch.get_num_threads())

        def again() -> float:
            return device_peak(context.device, dtype)[0] * context.world_size

        return cls(context.device, flops, peak_flops * context.world_size, reason, again)

    def numbers(self, tokens_per_s: float | None) -> dict[str, float]:
        """`memory_bytes`, and `mfu` where speed, arithmetic and a peak above it are known."""
        numbers: dict[str, float] = {"memory_bytes": used_memory_bytes(self.device)}
        if tokens_per_s is None or not self.flops_per_token:
            return numbers
        flops = tokens_per_s * self.flops_per_token
        while flops > self.peak_flops and self.again and self._n_measured < _MOST_MEASURED:
            self._n_measured += 1
            self.peak_flops = max(self.peak_flops, self.again())
        if flops <= self.peak_flops:
            numbers["mfu"] = round(flops / self.peak_flops, 4)
        return numbers

    @property
    def text(self) -> str:
        """For the run's log."""
        if not self.flops_per_token:
            return f"no MFU: {self.reason}"
        return f"MFU is of {self.peak_flops / 1e12:.4g} TFLOP/s: {self.reason}"


def used_memory_bytes(device: torch.device) -> int:
    """The most that tensors had on a GPU; on a CPU what this process has now.

    Where the system does not tell that, what it had at most.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
