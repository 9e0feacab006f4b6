"""Weight matrices in 8 or 4 bits a weight, in plain torch.

Called by compression (`mulm.model.quantized`) and by the modules that compute with the result.
Invariant: either form *is* an int8 matrix with one fp32 scale per output row, so one exact integer
product serves both:

    int8   weight = scale * code                      code -127..127
    int4   weight = scale * multiplier * code         code -8..7, multiplier 1..16

The 4-bit multiplier is shared by a group of 16 weights of a row; its product with the code always
fits a signed byte (progressive group scales, as in QServe, Lin et al., 2024).
Shape letters: O outputs (rows), I inputs, J inputs filled up to whole pairs of groups, G groups
of a row, E weights of a group, P bytes with two 4-bit numbers each.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mulm.errors import DataError
from mulm.model.int4_layout import GROUP, padded

Bits = Literal["int8", "int4"]

_MAX_MULTIPLIER = 16
_CHUNK_WEIGHTS = 1 << 20


class Int8Matrix(NamedTuple):
    """`weight = scale_O[:, None] * codes_OI`."""

    codes_OI: Tensor
    """int8."""
    scale_O: Tensor
    """fp32."""


class Int4Matrix(NamedTuple):
    """Two numbers a byte, the first in the low half; see `expand_int4`."""

    codes_OP: Tensor
    """uint8: codes plus 8."""
    multipliers_OP: Tensor
    """uint8: multipliers minus 1."""
    scale_O: Tensor
    """fp32."""


def quantize_int8(weight_OI: Tensor) -> Int8Matrix:
    """Round to 8 bits, the largest weight of each row to 127.

    Raises:
        DataError: a weight is not finite.
    """
    weight_OI = _checked(weight_OI)
    scale_O = weight_OI.abs().amax(1) / 127
    codes_OI = (weight_OI / _divisor(scale_O)[:, None]).round_().clamp_(-127, 127)
    return Int8Matrix(codes_OI.to(torch.int8), scale_O)


def quantize_int4(weight_OI: Tensor) -> Int4Matrix:
    """Round to 4 bits, with the multipliers of the least squared error.

    Raises:
        DataError: a weight is not finite.
    """
    weight_OGE = _grouped(_checked(weight_OI))
    rows = max(1, _CHUNK_WEIGHTS // weight_OGE[0].numel())
    parts = [_nearest_int4(weight_OGE[i : i + rows]) for i in range(0, len(weight_OGE), rows)]
    codes, multipliers, scales = (torch.cat(part) for part in zip(*parts, strict=True))
    return pack_int4(codes.flatten(1), multipliers, scales)


def pack_int4(codes_OJ: Tensor, multipliers_OG: Tensor, scale_O: Tensor) -> Int4Matrix:
    """Codes (-8..7) and multipliers (1..16), both int8 and even in number, two a byte."""
    return Int4Matrix(_pair(codes_OJ + 8), _pair(multipliers_OG - 1), scale_O)


def expand_int4(matrix: Int4Matrix, n_inputs: int) -> Int8Matrix:
    """The same matrix with one byte a weight, exactly; what it was filled up with is cut off."""
    codes_OGE = _split(_unpair(matrix.codes_OP) - 8, GROUP)
    multipliers_OG = _unpair(matrix.multipliers_OP) + 1
    codes_OGE.mul_(multipliers_OG[:, :, None])
    return Int8Matrix(codes_OGE.flatten(1)[:, :n_inputs].contiguous(), matrix.scale_O)


def dequantize(matrix: Int8Matrix) -> Tensor:
    """The weights (O, I), fp32."""
    return matrix.codes_OI.float().mul_(matrix.scale_O[:, None])


def _checked(weight_OI: Tensor) -> Tensor:
    weight_OI = weight_OI.detach().float()
    if not bool(weight_OI.isfinite().all()):
        raise DataError(
            "a weight is not a finite number", hint="compress a model whose training went well"
        )
    return weight_OI


def _divisor(scale: Tensor) -> Tensor:
    """A scale to divide by: rows of zeros give zeros, not 0 / 0."""
    return scale.clamp(min=torch.finfo(torch.float32).tiny)


def _grouped(weight_OI: Tensor) -> Tensor:
    missing = padded(weight_OI.shape[1]) - weight_OI.shape[1]
    return _split(torch.nn.functional.pad(weight_OI, (0, missing)), GROUP)


def _split(values_OJ: Tensor, size: int) -> Tensor:
    """Columns in pieces of `size`, as a dimension of their own."""
    return values_OJ.view(len(values_OJ), -1, size)


def _nearest_int4(weight_OGE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (O, G, E), multipliers (O, G) and scales (O).

    Every multiplier is tried on every group: a small one cuts off its largest weights and rounds
    the others more finely.
    """
    scale_O = weight_OGE.abs().amax((1, 2)) / (7.5 * _MAX_MULTIPLIER)
    best_OG = torch.full_like(weight_OGE[..., 0], torch.inf)
    multipliers_OG = torch.ones_like(best_OG)
    for multiplier in range(1, _MAX_MULTIPLIER + 1):
        step_O11 = (scale_O * multiplier)[:, None, None]
        rounded_OGE = _round_int4(weight_OGE, step_O11).mul_(step_O11)
        error_OG = rounded_OGE.sub_(weight_OGE).square_().sum(-1)
        is_better_OG = error_OG < best_OG
        best_OG = torch.where(is_better_OG, error_OG, best_OG)
        multipliers_OG.masked_fill_(is_better_OG, multiplier)
    codes_OGE = _round_int4(weight_OGE, (scale_O[:, None] * multipliers_OG)[..., None])
    return codes_OGE.to(torch.int8), multipliers_OG.to(torch.int8), scale_O


def _round_int4(weight_OGE: Tensor, step: Tensor) -> Tensor:
    return (weight_OGE / _divisor(step)).round_().clamp_(-8, 7)


def _pair(values_OJ: Tensor) -> Tensor:
    """Numbers 0..15, two a byte."""
    pairs = _split(values_OJ.to(torch.uint8), 2)
    return pairs[..., 0] | (pairs[..., 1] << 4)


def _unpair(bytes_OP: Tensor) -> Tensor:
    """As int8, twice as many columns."""
    halves = torch.stack([bytes_OP & 15, bytes_OP >> 4], dim=-1)
    return halves.flatten(1).to(torch.int8)
