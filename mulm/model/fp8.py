"""Matrix products of blocks in 8-bit floats, both ways, for GPUs that multiply them in hardware.

Asked for by `precision: fp8` of a training config. Each product scales its two sides by their
largest number at that moment (per tensor), casts them, multiplies, and gives the type of the
stream; inputs and weights are e4m3, gradients e5m2 (Micikevicius et al., 2022). Invariants:
weights, names and what is stored stay as they were; what hardware cannot multiply, sides that are
no multiples of 16, is multiplied in the stream's type. The embedding and the loss are left alone.
Shape letters: M tokens, K inputs, N outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mulm.model.layers import Linear

INPUT, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2
FIRST_FP8_CARD = (8, 9)
"""Compute capability of the first GPUs that have such products."""
SIDE = 16
"""Of what both sides of a product are multiples."""


def in_fp8(model: nn.Module) -> nn.Module:
    """Let all `Linear` layers of a model multiply in 8 bits; returns the model."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = Fp8Linear
    return model


class Fp8Linear(Linear):
    """A `Linear` whose products are in 8 bits, the one forward and the two backward."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the last dimension."""
        weight_NK = self.weight.to(x.dtype)
        n_tokens = x.numel() // x.shape[-1]
        if n_tokens % SIDE or weight_NK.shape[0] % SIDE or weight_NK.shape[1] % SIDE:
            return functional.linear(x, weight_NK)
        apply: Any = _Fp8Product.apply
        y_MN: Tensor = apply(x.flatten(0, -2), weight_NK)
        return y_MN.view(*x.shape[:-1], -1)


class _Fp8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, weight_NK: Tensor) -> Tensor:
        ctx.save_for_backward(x_MK, weight_NK)
        return product(x_MK, weight_NK, INPUT, INPUT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_MK, weight_NK = ctx.saved_tensors
        (grad_MN,) = grad_outputs
        grad_x_MK = grad_weight_NK = None
        if ctx.needs_input_grad[0]:
            grad_x_MK = product(grad_MN, weight_NK.T, GRADIENT, INPUT)
        if ctx.needs_input_grad[1]:
            grad_weight_NK = product(grad_MN.T, x_MK.T, GRADIENT, INPUT)
        return grad_x_MK, grad_weight_NK


def product(a_MK: Tensor, b_NK: Tensor, a_type: torch.dtype, b_type: torch.dtype) -> Tensor:
    """The product a b^T in the type of `a_MK`, each side in 8 bits with a scale of its own."""
    a, a_scale = scaled(a_MK, a_type)
    b, b_scale = scaled(b_NK, b_type)
    multiply: Any = torch._scaled_mm
    y_MN: Tensor = multiply(a, b.t(), scale_a=a_scale, scale_b=b_scale, out_dtype=a_MK.dtype)
    return y_MN


def scaled(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The numbers by a scale in 8 bits, row by row in memory, and the scale: none overflows.

    A number that is not finite makes the scale so, and with it the product: it is not hidden.
    """
    largest = x.abs().amax().float()
    scale = torch.where(largest == 0, 1.0, largest / torch.finfo(dtype).max)
    limit = torch.finfo(dtype).max
    return (x.float() / scale).clamp(-limit, limit).to(dtype).contiguous(), scale
