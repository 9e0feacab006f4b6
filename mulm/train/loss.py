"""Cross-entropy from hidden states without the full logits.

Called by the training loop, validation and evaluation. Invariant: for a given type of the matrix
products, result and gradients do not depend on the chunks, up to rounding, and in fp32 they are
those of the plain computation; the memory is that of one chunk of logits.
Shape letters: N tokens, C tokens of a chunk, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mulm.data.loader import IGNORED_TARGET
from mulm.model.compiled import compiled
from mulm.train.memory import LOSS_CHUNK_TOKENS

COMPILED_CHUNKS = 4
"""Chunks in one: compiled code keeps half-precision logits alone, so it takes as much memory."""


def sum_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    dtype: torch.dtype = torch.float32,
    chunk_tokens: int | None = None,
    z_weight: float = 0.0,
    is_compiled: bool = False,
) -> Tensor:
    """Sum over tokens of -log p(target), in nats; `IGNORED_TARGET` counts nothing.

    `dtype` is that of the matrix products; the softmax is always fp32. `z_weight` times log(Z)^2
    is added for each token, Z being the sum that its softmax divides by (Chowdhery et al., 2022,
    section 5). A weight that needs no gradient gets none.
    """
    has_gradients = torch.is_grad_enabled()
    is_compiled = is_compiled and has_gradients
    times = COMPILED_CHUNKS if is_compiled and dtype.itemsize == 2 else 1
    chunk_tokens = chunk_tokens or times * LOSS_CHUNK_TOKENS[hidden_ND.device.type]
    to_gradients = compiled(_to_gradients) if is_compiled else _to_gradients_in_place
    apply: Any = _ChunkedCrossEntropy.apply
    if not has_gradients:  # of which an autograd function is not told
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
    loss: Tensor = apply(
        hidden_ND, weight_VD, targets_N, dtype, chunk_tokens, z_weight, to_gradients
    )
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
        to_gradients: Callable[[Tensor, Tensor, float], Tensor],
    ) -> Tensor:
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        weight = weight_VD.to(dtype)
        grad_hidden_ND = torch.empty_like(hidden_ND) if needs_grad else None
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, len(hidden_ND), chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            hidden = hidden_ND[rows].to(dtype)
            logits_CV = hidden @ weight.T
            if grad_hidden_ND is None:
                loss += _nats(logits_CV.float(), targets_N[rows], z_weight)[0]
                continue
            loss += to_gradients(logits_CV, targets_N[rows], z_weight)
            grad_hidden_ND[rows] = logits_CV @ weight
            if grad_weight_VD is not None:
                grad_weight_VD += logits_CV.T @ hidden
            del logits_CV  # or it stays while the next chunk is computed
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        (scale,) = grad_outputs
        scaled_VD = None if grad_weight_VD is None else grad_weight_VD.mul_(scale)
        return grad_hidden_ND.mul_(scale), scaled_VD, *[None] * 5


def _to_gradients(logits_CV: Tensor, targets_C: Tensor, z_weight: float) -> Tensor:
    """Turn logits into d loss / d logits; returns the loss.

    The gradient is softmax minus one-hot, with (1 + 2 z log Z) softmax where there is a
    `z_weight` z. Written for a compiler, which makes one pass over each row of it.
    """
    logits32_CV, column_C1 = logits_CV.float(), targets_C.clamp(min=0)[:, None]
    loss_sum, log_total_C, is_counted_C = _nats(logits32_CV, targets_C, z_weight)
    shares_CV = (logits32_CV - log_total_C[:, None]).exp()
    if z_weight:
        shares_CV = shares_CV * (1 + 2 * z_weight * log_total_C[:, None])
    is_target_CV = torch.arange(logits_CV.shape[1], device=logits_CV.device) == column_C1
    grad_CV = torch.where(is_target_CV, shares_CV - 1, shares_CV) * is_counted_C[:, None]
    logits_CV.copy_(grad_CV)
    return loss_sum


def _to_gradients_in_place(logits_CV: Tensor, targets_C: Tensor, z_weight: float) -> Tensor:
    """The same in few whole passes, with one fp32 copy where the logits are of another type."""
    grad_CV, column_C1 = logits_CV.float(), targets_C.clamp(min=0)[:, None]
    loss_sum, log_total_C, is_counted_C = _nats(grad_CV, targets_C, z_weight)
    grad_CV.sub_(log_total_C[:, None]).exp_()
    if z_weight:
        grad_CV.mul_(1 + 2 * z_weight * log_total_C[:, None])
    grad_CV.scatter_add_(1, column_C1, torch.full_like(column_C1, -1, dtype=grad_CV.dtype))
    if not bool(is_counted_C.all()):
        grad_CV.mul_(is_counted_C[:, None])
    if grad_CV is not logits_CV:
        logits_CV.copy_(grad_CV)
    return loss_sum


def _nats(logits_CV: Tensor, targets_C: Tensor, z_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a chunk, log Z of each token, and which tokens count."""
    is_counted_C = targets_C != IGNORED_TARGET
    chosen_C = logits_CV.gather(1, targets_C.clamp(min=0)[:, None])[:, 0]
    log_total_C = logits_CV.logsumexp(dim=1)
    nats_C = log_total_C - chosen_C
    if z_weight:
        nats_C = nats_C + z_weight * log_total_C.square()
    return (nats_C * is_counted_C).sum(), log_total_C, is_counted_C
