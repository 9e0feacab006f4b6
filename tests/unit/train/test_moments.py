"""Moments keep averages: exactly in fp32, closely in bf16 and in 8 bits."""

from __future__ import annotations

import pytest
import torch

from mulm.train.moments import CodedMoment, make_moment
from mulm.train.optimizer_config import StateDtype

N = 5000


def values(seed: int = 0) -> torch.Tensor:
    """Numbers over many magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, generator=generator) * torch.logspace(-4, 0, N)


@pytest.mark.parametrize(("dtype", "error"), [("fp32", 0.0), ("bf16", 0.004), ("int8", 0.02)])
@pytest.mark.parametrize("is_square", [False, True])
def test_what_was_written_is_read(dtype: StateDtype, error: float, is_square: bool) -> None:
    value = values().square() if is_square else values()
    moment, whole = make_moment(value, dtype, is_square=is_square), slice(0, N)
    kept = moment.read(whole)
    kept.copy_(value)
    moment.write(whole, kept, 1)
    assert (moment.read(whole) - value).norm() <= error * value.norm()


@pytest.mark.parametrize("is_square", [False, True])
def test_codes_are_right_on_average(is_square: bool) -> None:
    value = values().square() if is_square else values()
    moment, whole, total = CodedMoment(value, is_square=is_square), slice(0, N), torch.zeros(N)
    for step in range(300):
        moment.write(whole, value, step)
        total += moment.read(whole)
    large = value.abs() > value.abs().amax() * 1e-3
    assert ((total / 300 - value)[large].abs() < 0.02 * value[large].abs()).all()


def test_a_small_gradient_is_not_lost() -> None:
    """An average that moves by less than half a code per step arrives all the same."""
    moment, whole = CodedMoment(torch.zeros(256), is_square=False), slice(0, 256)
    moment.write(whole, torch.cat([torch.ones(1), torch.full((255,), 0.5)]), 0)
    for step in range(1, 400):
        value = moment.read(whole).lerp(torch.cat([torch.ones(1), torch.zeros(255)]), 0.002)
        moment.write(whole, value, step)
    expected = 0.5 * 0.998**399
    assert moment.read(whole)[1:].mean() == pytest.approx(expected, rel=0.1)


def test_a_square_is_zero_only_before_the_first_step() -> None:
    moment, whole = CodedMoment(torch.zeros(N), is_square=True), slice(0, N)
    assert not moment.read(whole).any()
    moment.write(whole, torch.logspace(-30, 0, N), 1)
    assert (moment.read(whole) > 0).all()


def test_slices_are_codes_of_their_own() -> None:
    value = values()
    whole, cut = (CodedMoment(value, is_square=False) for _ in range(2))
    whole.write(slice(0, N), value, 3)
    for part in (slice(0, 512), slice(512, N)):
        cut.write(part, value[part], 3)
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, cut.tensors()[name])


def test_bytes_of_each_type() -> None:
    sizes = {
        dtype: sum(t.nbytes for t in make_moment(torch.zeros(64, 128), dtype).tensors().values())
        for dtype in ("fp32", "bf16", "int8")
    }
    assert sizes == {"fp32": 4 * 8192, "bf16": 2 * 8192, "int8": 8192 + 4 * 32}
    assert make_moment(torch.zeros(64), "int8").tensors()[""].dtype == torch.float32
