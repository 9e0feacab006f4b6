"""What a student learns from a teacher's whole distribution, without the full logits of either.

For training with distillation. The loss of a token is the forward Kullback-Leibler divergence of
the student from the teacher, both softened by a temperature and scaled back by its square, so that
gradients keep their size (Hinton et al., 2015). Invariants: result and gradients do not depend on
the chunks, up to rounding, and in fp32 they are those of the plain computation; the teacher gets
no gradient; the memory is that of two chunks of logits.
Shape letters: N tokens, C tokens of a chunk, D d_model of the student, E that of the teacher,
V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mulm.data.loader import IGNORED_TARGET
from mulm.train.memory import LOSS_CHUNK_TOKENS


def sum_distillation(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    teacher_hidden_NE: Tensor,
    teacher_weight_VE: Tensor,
    targets_N: Tensor,
    temperature: float = 1.0,
    dtype: torch.dtype = torch.float32,
    chunk_tokens: int | None = None,
) -> Tensor:
    """Sum over tokens of temperature^2 * KL(teacher || student), in nats.

    Where `targets_N` is `IGNORED_TARGET` a token counts nothing; the targets themselves are not
    used. `dtype` is that of the matrix products; the softmax is always fp32. Both vocabularies
    must be the same.
    """
    assert len(weight_VD) == len(teacher_weight_VE), "student and teacher share their vocabulary"
    chunk_tokens = chunk_tokens or LOSS_CHUNK_TOKENS[hidden_ND.device.type]
    apply: Any = _ChunkedDistillation.apply
    loss: Tensor = apply(
        hidden_ND,
        weight_VD,
        teacher_hidden_NE.detach(),
        teacher_weight_VE.detach(),
        targets_N != IGNORED_TARGET,
        temperature,
        dtype,
        chunk_tokens,
    )
    return loss


class _ChunkedDistillation(torch.autograd.Function):
    """Computes the gradients together with the loss, while a chunk's logits are there."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        teacher_hidden_NE: Tensor,
        teacher_weight_VE: Tensor,
        is_counted_N: Tensor,
        temperature: float,
        dtype: torch.dtype,
        chunk_tokens: int,
    ) -> Tensor:
        weight, teacher_weight = weight_VD.to(dtype), teacher_weight_VE.to(dtype)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, len(hidden_ND), chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            hidden = hidden_ND[rows].to(dtype)
            logits_CV = (hidden @ weight.T).float()
            teacher_CV = (teacher_hidden_NE[rows].to(dtype) @ teacher_weight.T).float()
            loss_sum, grad_CV = _chunk_loss(logits_CV, teacher_CV, is_counted_N[rows], temperature)
            loss += loss_sum
            grad_CV = grad_CV.to(dtype)
            grad_hidden_ND[rows] = grad_CV @ weight
            if grad_weight_VD is not None:
                grad_weight_VD += grad_CV.T @ hidden
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        (scale,) = grad_outputs
        scaled_VD = None if grad_weight_VD is None else grad_weight_VD * scale
        return grad_hidden_ND * scale, scaled_VD, *[None] * 6


def _chunk_loss(
    logits_CV: Tensor, teacher_CV: Tensor, is_counted_C: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Loss, and temperature * (student - teacher): d loss / d logits, in the logits' memory."""
    log_student_CV = logits_CV.div_(temperature).log_softmax(dim=1)
    log_teacher_CV = teacher_CV.div_(temperature).log_softmax(dim=1)
    teacher_CV = log_teacher_CV.exp()
    divergence_C = (teacher_CV * (log_teacher_CV - log_student_CV)).sum(1)
    loss_sum = temperature**2 * (divergence_C * is_counted_C).sum()
    grad_CV = log_student_CV.exp_().sub_(teacher_CV).mul_(temperature)
    return loss_sum, grad_CV.mul_(is_counted_C[:, None])
