"""How a forward pass is computed: choices that change time and memory, not what is learned.

Made by training and evaluation, read by `MicroLM.forward`. Invariant: two computes with the same
`dtype` give the same hidden states and gradients, up to rounding.
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
