"""Log-probabilities of given tokens from hidden states, without the full logits.

Called by objectives whose loss is no plain sum over tokens. Invariant: for a given type of the
matrix products, values and gradients do not depend on the chunks, up to rounding; the memory is
that of one chunk of logits, which are computed again on the way back.
Shape letters: N tokens, C tokens of a chunk, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mulm.data.loader import IGNORED_TARGET
from mulm.train.memory import LOSS_CHUNK_TOKENS


def token_log_probs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    dtype: torch.dtype = torch.float32,
    chunk_tokens: int | None = None,
) -> Tensor:
    """The log-probability of each token's target, in nats and fp32; 0 for `IGNORED_TARGET`.

    `dtype` is that of the matrix products; the softmax is always fp32.
    """
    chunk_tokens = chunk_tokens or LOSS_CHUNK_TOKENS[hidden_ND.device.type]
    places_M = (targets_N != IGNORED_TARGET).nonzero()[:, 0]
    apply: Any = _ChunkedLogProbs.apply
    log_probs_M: Tensor = apply(
        hidden_ND[places_M], weight_VD, targets_N[places_M], dtype, chunk_tokens
    )
    zeros_N = torch.zeros(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
    return zeros_N.index_put((places_M,), log_probs_M)


class _ChunkedLogProbs(torch.autograd.Function):
    """Keeps hidden states and weights, and no logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        dtype: torch.dtype,
        chunk_tokens: int,
    ) -> Tensor:
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N)
        ctx.dtype, ctx.chunk_tokens = dtype, chunk_tokens
        weight = weight_VD.to(dtype)
        log_probs_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        for rows in _chunks(len(targets_N), chunk_tokens):
            logits_CV = (hidden_ND[rows].to(dtype) @ weight.T).float()
            chosen_C = logits_CV.gather(1, targets_N[rows][:, None])[:, 0]
            log_probs_N[rows] = chosen_C - logits_CV.logsumexp(dim=1)
        return log_probs_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, targets_N = ctx.saved_tensors
        (grad_N,) = grad_outputs
        weight = weight_VD.to(ctx.dtype)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        for rows in _chunks(len(targets_N), ctx.chunk_tokens):
            hidden = hidden_ND[rows].to(ctx.dtype)
            grad_CV = (hidden @ weight.T).float()
            grad_CV.sub_(grad_CV.logsumexp(dim=1, keepdim=True)).exp_().neg_()
            column_C1 = targets_N[rows][:, None]
            grad_CV.scatter_add_(1, column_C1, torch.ones_like(column_C1, dtype=grad_CV.dtype))
            grad_CV = grad_CV.mul_(grad_N[rows][:, None]).to(ctx.dtype)
            grad_hidden_ND[rows] = grad_CV @ weight
            if grad_weight_VD is not None:
                grad_weight_VD += grad_CV.T @ hidden
            del grad_CV  # or it stays while the next chunk is computed
        return grad_hidden_ND, grad_weight_VD, *[None] * 3


def _chunks(n_tokens: int, chunk_tokens: int) -> Iterator[slice]:
    for start in range(0, n_tokens, chunk_tokens):
        yield slice(start, start + chunk_tokens)
