"""The product with an int8 matrix on a CPU: activations rounded to 8 bits too, each row by itself.

Packed by quantised models, called by their layers. Invariant: sums are integers and so exact; what
a row gives depends on no other row, so a sequence gets the same numbers in any batch.
Shape letters: X any leading dimensions, R all rows, I inputs, O outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from mulm.model.quantize import Int8Matrix

_ZERO_POINT = 128
_TINY = 1e-30


def can_multiply(device: torch.device, capabilities: Mapping[str, object] | None = None) -> bool:
    """Whether this machine multiplies bytes exactly and fast: a CPU with AVX-512 VNNI.

    Older CPUs add pairs of products in 16 bits, which overflows.
    """
    found = torch.cpu.get_capabilities() if capabilities is None else capabilities
    has_kernel = hasattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32")
    return device.type == "cpu" and bool(found.get("avx512_vnni")) and has_kernel


def ignore_warning() -> None:
    """Have torch's one warning about its old quantised tensors filtered, for good.

    No `catch_warnings` around the packing: that puts back the filters of the whole process, which
    other threads may have changed since.
    """
    warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)


class Int8Product:
    """`x @ weight.T` for one matrix, which is copied into the kernel's own order of bytes.

    Of the ways that torch 2.13 has, FBGEMM's was the fastest at one and at eight rows
    (docs/log.md); its packing takes torch's old quantised tensors, of which torch
    warns; `ignore_warning` has that filtered.
    """

    def __init__(self, matrix: Int8Matrix) -> None:
        zeros_O = torch.zeros(len(matrix.scale_O), dtype=torch.int64)
        weight = torch._make_per_channel_quantized_tensor(
            matrix.codes_OI, matrix.scale_O.double(), zeros_O, 0
        )
        self._packed = torch.ops.quantized.linear_prepack(weight, None)
        self._multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def __call__(self, x_XI: Tensor) -> Tensor:
        """x_XO in the type of `x_XI`."""
        rows_RI = x_XI.float().reshape(-1, x_XI.shape[-1])
        largest_R1 = largest(rows_RI)
        y_RO: Tensor = self._multiply(rows_RI / largest_R1, 1 / 127, _ZERO_POINT, self._packed)
        return y_RO.mul_(largest_R1).view(*x_XI.shape[:-1], -1).to(x_XI.dtype)


def largest(x_XI: Tensor) -> Tensor:
    """The largest magnitude of each row, kept as a dimension; never zero."""
    norm_X1: Tensor = torch.linalg.vector_norm(x_XI, torch.inf, -1, keepdim=True)
    return norm_X1.clamp_(min=_TINY)
