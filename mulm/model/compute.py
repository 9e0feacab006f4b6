"""How a forward pass is computed: choices that change time and memory, not what is learned.

Made by training and evaluation, read by `MicroLM.forward`; who serves asks what the CPU computes.
Invariant: two computes with the same `dtype` give the same hidden states and gradients, up to
rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mulm.model.config import AttentionKernel


@dataclass(frozen=True, slots=True)
class Compute:
    """One way of computing.

    `dtype` is that of the stream and of matrix products; weights are cast where they are used, so
    they may be kept in fp32. None means the weights' own. With `is_checkpointed` a block keeps
    its input only and is computed again on the way back. With `is_compiled` the parts between
    attention kernels are compiled where gradients are wanted.
    """

    dtype: torch.dtype | None = None
    attention: AttentionKernel = "auto"
    is_checkpointed: bool = False
    is_compiled: bool = False


def bf16_of_cpu() -> str:
    """The CPU's instructions that multiply bf16; empty where torch emulates them, slowly."""
    features = torch.cpu.get_capabilities()
    found = (name for name in ("amx_bf16", "amx_tile", "avx512_bf16") if features.get(name))
    return next(found, "")
