"""Buckets are cut alike everywhere, and take gradients whole or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mulm.train.sync.bucket import Bucket, cut


def parameters_of(*sizes: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(size)) for size in sizes]


def sizes(buckets: list[Bucket]) -> list[list[int]]:
    return [[p.numel() for p in bucket.parameters] for bucket in buckets]


def test_buckets_keep_order_and_size() -> None:
    assert sizes(cut(parameters_of(2, 3, 10, 1, 1), 20)) == [[2, 3], [10], [1, 1]]
    assert cut([], 20) == []


class Sent:
    """A peer that holds nothing but zeros."""

    def wait(self) -> None: ...


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_travels_and_comes_back(dtype: torch.dtype) -> None:
    weight, gain = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4))
    weight.grad, gain.grad = torch.arange(6.0).view(2, 3), torch.ones(4)
    (bucket,) = cut([weight, gain], 100)
    seen: list[Tensor] = []

    def send(flat_N: Tensor) -> Any:
        seen.append(flat_N)
        return Sent()

    bucket.begin(send, dtype)
    assert bucket.is_begun
    assert weight.grad is None
    assert [(t.dtype, len(t)) for t in seen] == [(dtype, 10)]
    bucket.finish(is_wanted=True)
    assert not bucket.is_begun
    assert torch.equal(weight.grad, torch.arange(6.0).view(2, 3))
    assert torch.equal(gain.grad, torch.ones(4))


def test_a_large_tensor_is_sent_from_where_it_lies() -> None:
    (weight,) = parameters_of(100)
    weight.grad = gradient = torch.ones(100)
    (bucket,) = cut([weight], 8)

    def send(flat_N: Tensor) -> Any:
        assert flat_N.data_ptr() == gradient.data_ptr()
        return Sent()

    bucket.begin(send, torch.float32)
    bucket.finish(is_wanted=False)
    assert weight.grad is None


def test_memory_that_runs_out_while_a_bucket_is_filled_changes_nothing() -> None:
    parameters = parameters_of(2, 3)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    (bucket,) = cut(parameters, 100)

    def send(_: Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        bucket.begin(send, torch.float32)
    assert not bucket.is_begun
    assert all(parameter.grad is not None for parameter in parameters)
