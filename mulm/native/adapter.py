"""LoRA adapters packed for the kernels, beside a model's own matrices.

Called by `mulm.native.model`. Invariant: the inner matrix is in the format of the rows that it is
multiplied by, so that it reads what the base's product reads; what it gives and the outer one are
fp32. Shape letters: I inputs of a matrix, O outputs, R rank.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from mulm.model.adapter import MATRICES, Adapter, LowRank
from mulm.model.quantize import quantize_int8
from mulm.native.library import FORMATS, address


def pack_adapter(library: ctypes.CDLL, model: int, adapter: Adapter, row_dtype: torch.dtype) -> int:
    """A handle that `mulm_set_adapter` takes over."""
    handle: int | None = library.mulm_adapter_new(model)
    if not handle:
        raise MemoryError("no memory for an adapter")
    for (layer, name), change in adapter.changes.items():
        if not _add(library, (model, handle, layer, MATRICES.index(name)), change, row_dtype):
            library.mulm_adapter_delete(handle)
            raise MemoryError("no memory for an adapter")
    return handle


def _add(
    library: ctypes.CDLL, place: tuple[int, ...], change: LowRank, row_dtype: torch.dtype
) -> bool:
    inner_RI, scale_R = change.inner_RI.detach().cpu(), None
    if row_dtype == torch.int8:
        inner_RI, scale_R = quantize_int8(inner_RI)
    inner_RI = inner_RI.to(row_dtype).contiguous()
    outer_OR = change.outer_OR.detach().cpu().float().contiguous()
    return bool(library.mulm_adapter_add(
        *place, len(inner_RI), address(inner_RI, row_dtype), FORMATS[row_dtype],
        _address(scale_R), address(outer_OR, torch.float32),
    ))  # fmt: skip


def _address(scale_R: Tensor | None) -> int | None:
    return None if scale_R is None else address(scale_R, torch.float32)
