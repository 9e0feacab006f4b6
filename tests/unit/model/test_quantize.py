"""Quantised matrices: close to the weights, exactly an int8 matrix, and packed without loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mulm.errors import DataError
from mulm.model.quantize import (
    GROUP,
    Int8Matrix,
    dequantize,
    expand_int4,
    pack_int4,
    quantize_int4,
    quantize_int8,
)


def weights(n_outputs: int, n_inputs: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n_outputs, n_inputs, generator=torch.Generator().manual_seed(seed)) * 0.05


def relative_error(matrix: Int8Matrix, weight_OI: torch.Tensor) -> float:
    return float((dequantize(matrix) - weight_OI).norm() / weight_OI.norm())


@given(st.integers(1, 40), st.integers(1, 80), st.integers(0, 3))
def test_rounding_to_8_bits_errs_by_half_a_step_at_most(rows: int, columns: int, seed: int) -> None:
    weight_OI = weights(rows, columns, seed)
    matrix = quantize_int8(weight_OI)
    assert matrix.codes_OI.dtype == torch.int8
    error_OI = (dequantize(matrix) - weight_OI).abs()
    assert bool((error_OI <= matrix.scale_O[:, None] * 0.5001).all())


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_packing_loses_nothing(rows: int, pairs: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n_groups = 2 * pairs
    codes = torch.randint(-8, 8, (rows, n_groups * GROUP), generator=generator).to(torch.int8)
    multipliers = torch.randint(1, 17, (rows, n_groups), generator=generator).to(torch.int8)
    packed = pack_int4(codes, multipliers, torch.ones(rows))
    expected = codes.int() * multipliers.int().repeat_interleave(GROUP, 1)
    for n_inputs in (n_groups * GROUP, n_groups * GROUP - 7):
        assert torch.equal(expand_int4(packed, n_inputs).codes_OI, expected[:, :n_inputs].char())


def test_four_bits_err_less_than_plain_groups_with_more_bits() -> None:
    """Groups of 32 with a 16-bit scale, no zero point, need 4.5 bits; ours 4.25."""
    weight_OI = weights(64, 256)
    weight_OI[:, ::37] *= 4
    groups = weight_OI.view(64, -1, 32)
    step = (groups.abs().amax(-1, keepdim=True) / 7).half().float()
    plain = ((groups / step).round().clamp(-8, 7) * step).view(64, 256)
    error = relative_error(expand_int4(quantize_int4(weight_OI), 256), weight_OI)
    assert error < float((plain - weight_OI).norm() / weight_OI.norm())


@pytest.mark.parametrize("n_inputs", [5, 32, 100])
def test_any_width_and_rows_of_zeros(n_inputs: int) -> None:
    weight_OI = weights(6, n_inputs)
    weight_OI[2] = 0
    for matrix in (quantize_int8(weight_OI), expand_int4(quantize_int4(weight_OI), n_inputs)):
        assert matrix.codes_OI.shape == weight_OI.shape
        assert bool((dequantize(matrix)[2] == 0).all())
        assert relative_error(matrix, weight_OI) < 0.12


def test_a_weight_that_is_no_number_is_refused() -> None:
    weight_OI = weights(4, 32)
    weight_OI[1, 3] = float("nan")
    for quantize in (quantize_int8, quantize_int4):
        with pytest.raises(DataError):
            quantize(weight_OI)
