"""Gradients of low rank: a few columns that stand for a matrix, and what they leave unsent.

Used by `ddp_lowrank`, which says what travels. Pure arithmetic: no talk. A matrix of M x N numbers
becomes a left factor of M x R with orthonormal columns and a right one of N x R that follows from
it; what their product lacks is added to the next gradient. Invariant: all that is returned as
gradients, and all that is unsent, add up to all gradients that came, unless one was not finite or
so large that what it left would govern the steps after it: that is bounded. Shape letters: G
matrices of one shape, M rows, N columns, R the rank.
Source: Vogels, Karimireddy and Jaggi, 2019, "PowerSGD".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEAST_SAVED = 2
"""A matrix travels in factors where they are smaller by this."""


MOST_UNSENT = 30.0
"""Times a gradient's norm: what one that was far larger has left is cut to that."""


class LowRank:
    """The gradients of parameters that have one shape.

    `unsent_GMN` is this worker's own; `right_GNR` is where the next step begins to look, the same
    on all workers. Memory: a number for each of the parameters'.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rank: int, seed: int) -> None:
        self.parameters = list(parameters)
        first = self.parameters[0]
        shape = len(self.parameters), first.shape[0], first[0].numel()
        self.unsent_GMN = torch.zeros(shape, device=first.device)
        self._seed, self._rank = seed, rank
        self.right_GNR = self._anywhere()

    @torch.no_grad()
    def take(self, count: float) -> Tensor:
        """Take the gradients away, over a count; the left factors, not orthonormal yet."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        assert len(gradients) == len(self.parameters), "a parameter has no part in the loss"
        for unsent_MN, gradient in zip(self.unsent_GMN, gradients, strict=True):
            most = MOST_UNSENT * gradient.norm() / count
            unsent_MN.mul_((most / unsent_MN.norm()).nan_to_num(1.0).clamp(max=1.0))
            unsent_MN.add_(gradient.view_as(unsent_MN), alpha=1 / count)
        for parameter in self.parameters:
            parameter.grad = None
        return self.unsent_GMN @ self.right_GNR

    @torch.no_grad()
    def split(self, left_GMR: Tensor, wire_dtype: torch.dtype = torch.float32) -> Tensor:
        """This worker's right factors to orthonormal left ones; what these carry is sent."""
        right_GNR = (self.unsent_GMN.mT @ left_GMR).to(wire_dtype).float()
        self.unsent_GMN.baddbmm_(left_GMR, right_GNR.mT, alpha=-1)
        return right_GNR

    @torch.no_grad()
    def give(self, left_GMR: Tensor, right_GNR: Tensor) -> None:
        """The gradients that all workers' right factors together make.

        Numbers that are not finite end what is unsent: it has them in it for ever.
        """
        for parameter, gradient_MN in zip(self.parameters, left_GMR @ right_GNR.mT, strict=True):
            parameter.grad = gradient_MN.view_as(parameter)
        self.right_GNR = right_GNR
        if not right_GNR.isfinite().all():
            self.unsent_GMN.zero_()
            self.right_GNR = self._anywhere()

    def _anywhere(self) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed)
        n_matrices, _, n_columns = self.unsent_GMN.shape
        start_GNR = torch.randn(n_matrices, n_columns, self._rank, generator=generator)
        return start_GNR.to(self.unsent_GMN.device)


def orthonormal(left_GMR: Tensor) -> Tensor:
    """Columns that span the same, by QR in the CPU's memory."""
    columns_GMR: Tensor = torch.linalg.qr(left_GMR.cpu())[0]
    return columns_GMR.to(left_GMR.device)


def by_shape(
    parameters: Sequence[nn.Parameter], rank: int
) -> tuple[list[LowRank], list[nn.Parameter]]:
    """Those that travel in factors, and the others, which travel whole."""
    shapes: dict[tuple[int, int], list[nn.Parameter]] = {}
    whole = []
    for parameter in parameters:
        if parameter.dim() < 2 or not _pays(parameter, rank):
            whole.append(parameter)
        else:
            shapes.setdefault((parameter.shape[0], parameter[0].numel()), []).append(parameter)
    return [LowRank(same, rank, seed) for seed, same in enumerate(shapes.values())], whole


def _pays(parameter: nn.Parameter, rank: int) -> bool:
    n_rows, n_columns = parameter.shape[0], parameter[0].numel()
    is_low = rank <= min(n_rows, n_columns)
    return is_low and LEAST_SAVED * rank * (n_rows + n_columns) <= n_rows * n_columns
