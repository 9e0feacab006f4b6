"""Data-parallel training: every step, all workers add up their gradients.

Needs a process group of torch.distributed that exists already (gloo or nccl). The sum of a bucket
begins while the last way back still runs: gradients are complete from the last layer to the first,
so buckets are cut and sent in that order, the next never before the one in front of it. A tied
embedding is complete when the loss and the input have both given their part, which is last.

Invariants: buckets are cut the same way on each worker and each is summed in the same order, so a
run repeats bit for bit with the same number of workers, and is the run that sums afterwards.
With owners each sum goes to the worker that steps the parameter, which sends the weights to the
others: as much travels as when all get all sums, and two workers hold the same weights either way.
A worker whose memory runs out after some buckets went off computes all gradients again but keeps
those sums: they hold its whole part already, the others wait for the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mulm.train.gradients import divide
from mulm.train.sync.bucket import Bucket, cut

BUCKET_BYTES = 16 << 20
_WEIGHTS_UNDER_WAY = 4
"""Buckets of weights that travel at once."""


class DdpSync:
    """`Sync` over the default process group.

    `wire_dtype` is that in which gradients travel and are summed. Without `overlaps` all are sent
    after the last way back: the simple way, with the same result.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        bucket_bytes: int = BUCKET_BYTES,
        wire_dtype: torch.dtype = torch.float32,
        overlaps: bool = True,
    ) -> None:
        self._device, self._bucket_bytes = device, bucket_bytes
        self._wire_dtype, self._overlaps = wire_dtype, overlaps
        self._parameters: list[nn.Parameter] = []
        self._buckets: list[Bucket] = []
        self._is_last, self._is_shared = False, False

    @property
    def manner(self) -> str:
        """Which sums, in which type."""
        wire = " in bf16" if self._wire_dtype == torch.bfloat16 else ""
        return f"ddp: gradients are summed every step{wire}, during the last way back"

    def attach(self, parameters: Sequence[nn.Parameter], owners: Sequence[int] = ()) -> None:
        """Cut buckets, and have each gradient told when it is complete."""
        self._parameters, self._is_shared = list(parameters), bool(owners)
        self._buckets = cut(self._parameters[::-1], self._bucket_bytes, owners[::-1])
        for bucket in self._buckets if self._overlaps else ():
            for parameter in bucket.parameters:
                told: Any = parameter.register_post_accumulate_grad_hook
                told(partial(self._arrived, bucket))

    def sum_values(self, values: Sequence[float]) -> list[float]:
        """One small all-reduce."""
        return sum_values(values, self._device)

    def drop(self) -> None:
        """Wait for sums that nobody wants."""
        for bucket in self._buckets:
            if bucket.is_begun:
                bucket.finish(is_wanted=False)

    @contextmanager
    def backward(self, *, is_last: bool) -> Iterator[None]:
        """Send buckets as they become complete, during the last."""
        for bucket in self._buckets:
            bucket.n_missing = len(bucket.parameters)
        self._is_last = is_last
        try:
            yield
        finally:
            self._is_last = False

    def mean_gradients(self, own_count: float, count: float) -> Tensor:  # noqa: ARG002
        """Send what was not sent, wait for all sums, and divide."""
        for bucket in self._buckets:
            if not bucket.is_begun:
                bucket.begin(partial(_send, bucket.owner), self._wire_dtype)
        for bucket in self._buckets:
            bucket.finish(is_wanted=bucket.owner in (None, distributed.get_rank()))
        norms_P = divide(self._parameters, count)
        if self._is_shared:
            distributed.all_reduce(norms_P)  # elsewhere they are zeros
        return norms_P

    @torch.no_grad()
    def after_step(self) -> None:
        """All workers have taken the same step; with owners, each a part of it."""
        under_way: deque[tuple[Bucket, Tensor, distributed.Work]] = deque()
        for bucket in self._buckets if self._is_shared else ():
            under_way.append((bucket, *_send_weights(bucket)))
            if len(under_way) > _WEIGHTS_UNDER_WAY:
                _take_weights(*under_way.popleft())
        while under_way:
            _take_weights(*under_way.popleft())

    def _arrived(self, bucket: Bucket, parameter: nn.Parameter) -> None:
        """The gradient of a micro-batch was added; of the last one, it is complete."""
        if bucket.is_begun:
            parameter.grad = None  # gradients are computed again, and this one has counted
        elif self._is_last:
            bucket.n_missing -= 1
            self._begin_complete()

    def _begin_complete(self) -> None:
        for bucket in self._buckets:
            if not bucket.is_begun:
                if bucket.n_missing:
                    return
                bucket.begin(partial(_send, bucket.owner), self._wire_dtype)


def sum_values(values: Sequence[float], device: torch.device) -> list[float]:
    """Each value summed over the process group, in fp64."""
    together = torch.tensor(list(values), dtype=torch.float64, device=device)
    distributed.all_reduce(together)
    summed: list[float] = together.tolist()
    return summed


def _send(owner: int | None, flat_N: Tensor) -> distributed.Work:
    """Begin a sum, for its owner or for all."""
    if owner is None:
        work: distributed.Work | None = distributed.all_reduce(flat_N, async_op=True)
    else:
        work = distributed.reduce(flat_N, owner, async_op=True)
    assert work is not None
    return work


def _send_weights(bucket: Bucket) -> tuple[Tensor, distributed.Work]:
    """From their owner; the others send nothing, and give room for what comes."""
    flat = [parameter.view(-1) for parameter in bucket.parameters]
    flat_N = flat[0] if len(flat) == 1 else torch.cat(flat)
    work: distributed.Work | None = distributed.broadcast(flat_N, bucket.owner, async_op=True)
    assert work is not None
    return flat_N, work


def _take_weights(bucket: Bucket, flat_N: Tensor, work: distributed.Work) -> None:
    work.wait()
    sizes = [parameter.numel() for parameter in bucket.parameters]
    for parameter, part in zip(bucket.parameters, torch.split(flat_N, sizes), strict=True):
        if part.data_ptr() != parameter.data_ptr():
            parameter.copy_(part.view_as(parameter))
