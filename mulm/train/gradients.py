"""Gradients: their norms, and how they are scaled together.

Used by the strategies of synchronisation and by the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

Named = Mapping[str, nn.Parameter]


@torch.no_grad()
def divide(parameters: Sequence[nn.Parameter], count: float) -> Tensor:
    """Divide gradients by a count; returns the norm of each, 0 where there is none."""
    norms = []
    for parameter in parameters:
        if parameter.grad is None:
            norms.append(torch.zeros((), device=parameter.device))
        else:
            norms.append(parameter.grad.div_(count).norm())
    return torch.stack(norms)


def grad_norm(parameters: Named) -> float:
    """The Euclidean norm of all gradients together."""
    norms = [p.grad.norm() for p in parameters.values() if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


def clip_gradients(parameters: Named, max_norm: float, norm: float | None = None) -> None:
    """Scale gradients down together where their norm exceeds `max_norm`; 0 means never.

    `norm` is theirs, with those on other workers, where it is known.
    """
    if max_norm and norm is None:
        norm = grad_norm(parameters)
    if max_norm and norm is not None and norm > max_norm:
        for parameter in parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(max_norm / norm)
