"""Data-parallel training whose sums are of low rank: less travels every step, and less is learned.

Needs a process group of torch.distributed that exists already. After the last way back a step's
gradients travel as factors (`low_rank`) in three messages: left factors to worker 0, which makes
them orthonormal; these to all; right factors, and the gradients of what is no large matrix, summed
for all. Invariants: all workers have the same factors, bit for bit, whatever their processors, as
one worker alone makes them orthonormal; a run repeats with the same number of workers. What is
unsent is in no checkpoint: a run that is gone on with begins without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, distributed, nn

from mulm.train.gradients import divide
from mulm.train.sync.ddp import sum_values
from mulm.train.sync.low_rank import LowRank, by_shape, orthonormal


class DdpLowRankSync:
    """`Sync` over the default process group.

    `rank` is the number of columns that stand for a matrix, `wire_dtype` the type in which they,
    and what travels whole, are sent.
    """

    def __init__(
        self, device: torch.device, rank: int, *, wire_dtype: torch.dtype = torch.float32
    ) -> None:
        self._device, self._rank, self._wire_dtype = device, rank, wire_dtype
        self._parameters: list[nn.Parameter] = []
        self._matrices: list[LowRank] = []
        self._whole: list[nn.Parameter] = []

    @property
    def manner(self) -> str:
        """Of which rank the sums are."""
        wire = " in bf16" if self._wire_dtype == torch.bfloat16 else ""
        return f"ddp_lowrank: gradients of rank {self._rank} are summed every step{wire}"

    def attach(self, parameters: Sequence[nn.Parameter], owners: Sequence[int] = ()) -> None:
        """Find the matrices of which a few columns are much less."""
        assert not owners, "all weights would travel to those who do not own them"
        self._parameters = list(parameters)
        self._matrices, self._whole = by_shape(parameters, self._rank)

    def sum_values(self, values: Sequence[float]) -> list[float]:
        """One small all-reduce."""
        return sum_values(values, self._device)

    def drop(self) -> None:
        """Nothing is under way between two calls."""

    def backward(self, *, is_last: bool) -> AbstractContextManager[None]:  # noqa: ARG002
        """Gradients add up; nothing goes off before all are there."""
        return nullcontext()

    @torch.no_grad()
    def mean_gradients(self, own_count: float, count: float) -> Tensor:  # noqa: ARG002
        """Three messages, and what the workers' factors make."""
        lefts = self._to_all([matrices.take(count) for matrices in self._matrices])
        pairs = zip(self._matrices, lefts, strict=True)
        rights = [matrices.split(left, self._wire_dtype) for matrices, left in pairs]
        whole = [self._gradient(p) / count for p in self._whole]
        summed = self._sum([*rights, *whole])
        n = len(rights)
        for matrices, left, right in zip(self._matrices, lefts, summed[:n], strict=True):
            matrices.give(left, right)
        for parameter, gradient in zip(self._whole, summed[n:], strict=True):
            parameter.grad = gradient
        return divide(self._parameters, 1.0)

    def after_step(self) -> None:
        """All workers have taken the same step."""

    def _gradient(self, parameter: nn.Parameter) -> Tensor:
        assert parameter.grad is not None, "a parameter has no part in the loss"
        return parameter.grad

    def _to_all(self, lefts: Sequence[Tensor]) -> list[Tensor]:
        """All workers' left factors together, made orthonormal by worker 0."""
        flat_N = self._flat(lefts)
        distributed.reduce(flat_N, 0)
        if distributed.get_rank() == 0:
            flat_N = self._flat([orthonormal(left) for left in _parts(flat_N, lefts)])
        distributed.broadcast(flat_N, 0)
        return _parts(flat_N, lefts)

    def _sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        flat_N = self._flat(tensors)
        distributed.all_reduce(flat_N)
        return _parts(flat_N, tensors)

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        nothing = torch.zeros(0, device=self._device)
        return torch.cat([nothing, *(t.reshape(-1) for t in tensors)]).to(self._wire_dtype)


def _parts(flat_N: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(flat_N.float(), [t.numel() for t in like])
    return [part.view_as(t) for part, t in zip(parts, like, strict=True)]
