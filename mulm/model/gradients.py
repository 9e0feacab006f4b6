"""Parts of a block whose gradients are written by hand, so that less is kept between the ways.

Called by `layers` in training. Invariant: values and gradients are those of the plain expression,
up to rounding. Differentiating twice is an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def rms_norm(x_XD: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    """Scale the last dimension to unit root mean square, then by a gain.

    torch composes this of many passes on a CPU and keeps fp32 copies of a bf16 input for them;
    on CUDA it has a kernel. Compiled, the passes are one.
    """
    if torch.compiler.is_compiling():
        x32_XD = x_XD.float()
        scale_X1 = (x32_XD.square().mean(-1, keepdim=True) + eps).rsqrt()
        return (x32_XD * scale_X1).to(x_XD.dtype) * gain_D.to(x_XD.dtype)
    if x_XD.device.type != "cpu" or not torch.is_grad_enabled():
        return functional.rms_norm(x_XD, gain_D.shape, gain_D.to(x_XD.dtype), eps)
    apply: Any = _RMSNorm.apply
    normed_XD: Tensor = apply(x_XD, gain_D, eps)
    return normed_XD


def gated_silu(gate_BTF: Tensor, up_BTF: Tensor) -> Tensor:
    """silu(gate) * up; keeps its two inputs and computes silu again on the way back."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return functional.silu(gate_BTF) * up_BTF
    apply: Any = _GatedSilu.apply
    gated_BTF: Tensor = apply(gate_BTF, up_BTF)
    return gated_BTF


class _RMSNorm(torch.autograd.Function):
    """Keeps the input and one number per vector."""

    @staticmethod
    def forward(ctx: Any, x_XD: Tensor, gain_D: Tensor, eps: float) -> Tensor:
        norm_X1 = torch.linalg.vector_norm(x_XD, dim=-1, keepdim=True, dtype=torch.float32)
        scale_X1 = norm_X1.square_().div_(x_XD.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_XD, gain_D, scale_X1)
        unit_XD: Tensor = x_XD * scale_X1.to(x_XD.dtype)
        return unit_XD.mul_(gain_D.to(x_XD.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_XD, gain_D, scale_X1 = ctx.saved_tensors
        (grad_XD,) = grad_outputs
        unit_XD = x_XD * scale_X1.to(x_XD.dtype)
        product_XD = grad_XD * unit_XD
        dgain_D = product_XD.flatten(0, -2).sum(0, dtype=torch.float32)
        cast_D = gain_D.to(x_XD.dtype)
        along_X1 = product_XD.mul_(cast_D).sum(-1, keepdim=True, dtype=torch.float32)
        along_X1 = along_X1.div_(x_XD.shape[-1]).to(x_XD.dtype)
        dx_XD = (grad_XD * cast_D).sub_(unit_XD.mul_(along_X1)).mul_(scale_X1.to(x_XD.dtype))
        return dx_XD, dgain_D.to(gain_D.dtype), None


class _GatedSilu(torch.autograd.Function):
    """Keeps gate and up, not silu(gate)."""

    @staticmethod
    def forward(ctx: Any, gate_BTF: Tensor, up_BTF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_BTF, up_BTF)
        return functional.silu(gate_BTF).mul_(up_BTF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        gate_BTF, up_BTF = ctx.saved_tensors
        (grad_BTF,) = grad_outputs
        dgate_BTF = torch.ops.aten.silu_backward(grad_BTF * up_BTF, gate_BTF)
        return dgate_BTF, functional.silu(gate_BTF).mul_(grad_BTF)
