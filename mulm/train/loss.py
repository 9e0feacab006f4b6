"""Cross-entropy from hidden states without the full logits.

Called by the training loop, validation and evaluation. Invariant: for a given type of the matrix
products, result and gradients do not depend on the chunks, up to rounding, and in fp32 they are
those of the plain computation; the memory is that of one chunk of logits.
Shape letters: N tokens, C tokens of a chunk, D d_model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mulm.data.loader import IGNORED_TARGET
from mulm.train.memory import LOSS_CHUNK_TOKENS


def sum_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    dtype: torch.dtype = torch.float32,
    chunk_tokens: int | None = None,
    z_weight: float = 0.0,
) -> Tensor:
    """Sum over tokens of -log p(target), in nats; `IGNORED_TARGET` counts nothing.

    `dtype` is that of the matrix products; the softmax is always fp32. `z_weight` times log(Z)^2
    is added for each token, Z being the sum that its softmax divides by (Chowdhery et al., 2022,
    section 5). A weight that needs no gradient gets none.
    """
    chunk_tokens = chunk_tokens or LOSS_CHUNK_TOKENS[hidden_ND.device.type]
    apply: Any = _ChunkedCrossEntropy.apply
    loss: Tensor = apply(hidden_ND, weight_VD, targets_N, dtype, chunk_tokens, z_weight)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradients together with the loss, while a chunk's logits are there."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        dtype: torch.dtype,
        chunk_tokens: int,
        z_weight: float,
    ) -> Tensor:
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        weight = weight_VD.to(dtype)
        grad_hidden_ND = torch.empty_like(hidden_ND) if needs_grad else None
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, len(hidden_ND), chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            hidden = hidden_ND[rows].to(dtype)
            loss_sum, grad_CV = _chunk_loss(
                (hidden @ weight.T).float(), targets_N[rows], needs_grad, z_weight
            )
            loss += loss_sum
            if grad_CV is not None and grad_hidden_ND is not None:
                grad_CV = grad_CV.to(dtype)
                grad_hidden_ND[rows] = grad_CV @ weight
                if grad_weight_VD is not None:
                    grad_weight_VD += grad_CV.T @ hidden
            del grad_CV  # or it stays while the next chunk is computed
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        (scale,) = grad_outputs
        scaled_VD = None if grad_weight_VD is None else grad_weight_VD.mul_(scale)
        return grad_hidden_ND.mul_(scale), scaled_VD, *[None] * 4


def _chunk_loss(
    logits_CV: Tensor, targets_C: Tensor, needs_grad: bool, z_weight: float
) -> tuple[Tensor, Tensor | None]:
    """Loss and, in the logits' own memory, d loss / d logits.

    That is softmax minus one-hot, with (1 + 2 z log Z) softmax where there is a `z_weight` z.
    """
    is_counted_C = targets_C != IGNORED_TARGET
    column_C1 = targets_C.clamp(min=0)[:, None]
    chosen_C = logits_CV.gather(1, column_C1)[:, 0]
    log_total_C = logits_CV.logsumexp(dim=1)
    nats_C = log_total_C - chosen_C
    if z_weight:
        nats_C = nats_C + z_weight * log_total_C.square()
    loss_sum = (nats_C * is_counted_C).sum()
    if not needs_grad:
        return loss_sum, None
    grad_CV = logits_CV.sub_(log_total_C[:, None]).exp_()
    if z_weight:
        grad_CV.mul_(1 + 2 * z_weight * log_total_C[:, None])
    grad_CV.scatter_add_(1, column_C1, torch.full_like(column_C1, -1, dtype=grad_CV.dtype))
    if not bool(is_counted_C.all()):
        grad_CV.mul_(is_counted_C[:, None])
    return loss_sum, grad_CV
