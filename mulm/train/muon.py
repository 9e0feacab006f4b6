"""Muon: the rule for matrices inside blocks.

Made and stepped by `optim`. Invariant: its state lies in the moments alone, and a step that memory
interrupted is called again and goes on where it was (`pieces`). It works on a few matrices at a
time, so that what it needs beside the state is bounded.
Shape letters: X matrices, M rows and N columns, M <= N.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from mulm.train.gradients import Named
from mulm.train.moments import make_moment
from mulm.train.optimizer_config import StateDtype
from mulm.train.optimizer_memory import BATCH_NUMBERS
from mulm.train.pieces import Pieces
from mulm.train.weight_decay import decay

MOMENTUM = 0.95
# Coefficients of five steps towards the polar factor, best in the worst case for singular
# values down to 1e-3 (Amsel et al., 2025, "The Polar Express", table in the appendix).
_POLAR_STEPS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


class Muon:
    """Momentum, orthogonalised: every direction of a matrix moves at the same speed.

    Keller Jordan et al., 2024; the polar factor by five Newton-Schulz-like steps, equal shapes
    batched. Wide and tall matrices share a shape after transposing.
    """

    def __init__(
        self,
        parameters: Named,
        lr: float,
        weight_decay: float,
        dtype: torch.dtype,
        state_dtype: StateDtype = "fp32",
        is_cautious: bool = False,
        is_offloaded: bool = False,
    ) -> None:
        self.parameters = dict(parameters)
        self.lr, self.weight_decay, self.dtype = lr, weight_decay, dtype
        self.is_cautious, self._pieces = is_cautious, Pieces()
        make = partial(make_moment, dtype=state_dtype, is_offloaded=is_offloaded)
        self.momentum = {name: make(p) for name, p in self.parameters.items()}
        self._names_by_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, parameter in self.parameters.items():
            self._names_by_shape[tuple(sorted(parameter.shape))].append(name)

    @torch.no_grad()
    def step(self, lr_scale: float, n_steps: int) -> None:
        """One update; `n_steps` counts from 1."""
        for (n_rows, n_columns), names in self._names_by_shape.items():
            batch_size = max(1, BATCH_NUMBERS // (n_rows * n_columns))
            for start in range(0, len(names), batch_size):
                batch = names[start : start + batch_size]
                move = partial(self._step_batch, batch, (n_rows, n_columns), lr_scale * self.lr)
                changed = partial(self._changed, batch)
                self._pieces.once(batch[0], partial(move, n_steps), changed)
        self._pieces.end()

    def _changed(self, names: list[str]) -> Iterator[Tensor]:
        for name in names:
            yield self.parameters[name]
            yield from self.momentum[name].live(slice(0, self.parameters[name].numel()))

    def _step_batch(
        self, names: list[str], wide_shape: tuple[int, ...], lr: float, n_steps: int
    ) -> None:
        device = self.parameters[names[0]].device
        wide_XMN = torch.empty(len(names), *wide_shape, dtype=self.dtype, device=device)
        for wide, name in zip(wide_XMN, names, strict=True):
            wide.copy_(_widened(self._direction(name, n_steps)))
        for name, factor in zip(names, polar_factor(wide_XMN), strict=True):
            self._move(name, factor, lr)

    def _direction(self, name: str, n_steps: int) -> Tensor:
        gradient, moment = self.parameters[name].grad, self.momentum[name]
        assert gradient is not None
        whole = slice(0, gradient.numel())
        momentum = moment.read(whole)
        momentum.lerp_(gradient.view(-1), 1 - MOMENTUM)
        moment.write(whole, momentum, n_steps)
        return torch.lerp(gradient, momentum.view_as(gradient), MOMENTUM)

    def _move(self, name: str, wide_factor: Tensor, lr: float) -> None:
        parameter = self.parameters[name]
        n_out, n_in = parameter.shape
        factor = wide_factor if n_out <= n_in else wide_factor.T
        if self.weight_decay:
            decay(parameter, factor if self.is_cautious else None, lr * self.weight_decay)
        parameter.add_(factor, alpha=-lr * max(1.0, n_out / n_in) ** 0.5)


def polar_factor(wide_XMN: Tensor) -> Tensor:
    """Nearly U V^T of each matrix's singular value decomposition U S V^T, for M <= N."""
    x_XMN: Tensor = wide_XMN / (wide_XMN.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in _POLAR_STEPS:
        gram_XMM = x_XMN @ x_XMN.mT
        factor_XMM = torch.baddbmm(gram_XMM, gram_XMM, gram_XMM, beta=b, alpha=c)
        x_XMN = torch.baddbmm(x_XMN, factor_XMM, x_XMN, beta=a)
    return x_XMN


def _widened(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
