"""AdamW: the rule for embeddings and gains, or for all.

Made and stepped by `optim`. Invariant: its state lies in the moments and the count of steps, and a
step that memory interrupted is called again and goes on where it was (`pieces`). It works on slices
of large tensors, so that what it needs beside the state is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from mulm.train.gradients import Named
from mulm.train.moments import make_moment
from mulm.train.optimizer_config import StateDtype
from mulm.train.optimizer_memory import PART_NUMBERS
from mulm.train.pieces import Pieces
from mulm.train.weight_decay import decay, is_block_matrix

BETA1, BETA2, EPS = 0.9, 0.95, 1e-10


class AdamW:
    """Adam with decoupled weight decay of block matrices (Loshchilov and Hutter, 2019)."""

    def __init__(
        self,
        parameters: Named,
        lr: float,
        weight_decay: float,
        state_dtype: StateDtype = "fp32",
        is_cautious: bool = False,
        is_offloaded: bool = False,
    ) -> None:
        self.parameters, self._pieces = dict(parameters), Pieces()
        self.lr, self.weight_decay, self.is_cautious = lr, weight_decay, is_cautious
        make = partial(make_moment, dtype=state_dtype, is_offloaded=is_offloaded)
        self.mean = {name: make(p) for name, p in self.parameters.items()}
        self.square = {name: make(p, is_square=True) for name, p in self.parameters.items()}
        self.n_steps = torch.zeros(1, dtype=torch.int64)

    @torch.no_grad()
    def step(self, lr_scale: float) -> None:
        """One update."""
        self._pieces.once("count", partial(self.n_steps.add_, 1))
        n_steps, lr = int(self.n_steps), lr_scale * self.lr
        for name, parameter in self.parameters.items():
            for part in _parts(parameter.numel()):
                move = partial(self._move, name, part, n_steps, lr)
                self._pieces.once((name, part.start), move, partial(self._changed, name, part))
        self._pieces.end()

    def _changed(self, name: str, part: slice) -> Iterator[Tensor]:
        yield self.parameters[name].view(-1)[part]
        yield from self.mean[name].live(part)
        yield from self.square[name].live(part)

    def _move(self, name: str, part: slice, n_steps: int, lr: float) -> None:
        parameter, gradient = self.parameters[name], self.parameters[name].grad
        assert gradient is not None
        gradient = gradient.view(-1)[part]
        mean, square = self.mean[name].read(part), self.square[name].read(part)
        mean.lerp_(gradient, 1 - BETA1)
        self.mean[name].write(part, mean, n_steps)
        square.lerp_(gradient.square(), 1 - BETA2)
        self.square[name].write(part, square, n_steps)
        spread = (square / (1 - BETA2**n_steps)).sqrt_().add_(EPS)
        if self.weight_decay and is_block_matrix(name, parameter):
            own = parameter.view(-1)[part]
            decay(own, mean if self.is_cautious else None, lr * self.weight_decay)
        parameter.view(-1)[part].addcdiv_(mean, spread, value=-lr / (1 - BETA1**n_steps))


def _parts(n_numbers: int) -> Iterator[slice]:
    for start in range(0, n_numbers, PART_NUMBERS):
        yield slice(start, min(n_numbers, start + PART_NUMBERS))
