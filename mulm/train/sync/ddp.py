"""Data-parallel training: every step, all workers add up their gradients.

Needs a process group of torch.distributed that exists already (gloo or nccl). Invariant:
buckets are cut the same way on each worker, and each is reduced in the same order, so a run
repeats bit for bit with the same number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, distributed

BUCKET_BYTES = 16 << 20


class DdpSync:
    """`Sync` over the default process group."""

    def __init__(self, device: torch.device, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._device = device
        self._bucket_bytes = bucket_bytes

    def sum_values(self, values: Sequence[float]) -> list[float]:
        """One small all-reduce."""
        together = torch.tensor(list(values), dtype=torch.float64, device=self._device)
        distributed.all_reduce(together)
        summed: list[float] = together.tolist()
        return summed

    def sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        """All-reduce flattened buckets of up to `bucket_bytes`."""
        for bucket in buckets(gradients, self._bucket_bytes):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            distributed.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def buckets(tensors: Sequence[Tensor], bucket_bytes: int) -> Iterator[list[Tensor]]:
    """Cut a list into runs of at most `bucket_bytes`; a larger tensor stands alone."""
    bucket: list[Tensor] = []
    size_bytes = 0
    for tensor in tensors:
        if bucket and size_bytes + tensor.nbytes > bucket_bytes:
            yield bucket
            bucket, size_bytes = [], 0
        bucket.append(tensor)
        size_bytes += tensor.nbytes
    if bucket:
        yield bucket
