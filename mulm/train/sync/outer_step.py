"""The outer step: how the anchor follows the islands' mean progress.

Called by the aggregator when a round of a fragment closes. Invariant: a pure function of its
arguments, but for the tensors that it changes in place. Shape letters: N numbers of a fragment.
Source: Douillard et al., 2023, "DiLoCo", where progress with its sign turned is the outer gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Outer = Literal["average", "nesterov"]
OUTERS: tuple[Outer, ...] = get_args(Outer)


@dataclass(frozen=True, slots=True)
class OuterStep:
    """Plain averaging, or a step of Nesterov's momentum.

    `lr` 1 and no momentum make the anchor the mean of the islands' weights.
    """

    kind: Outer = "average"
    lr: float = 0.7
    momentum: float = 0.9

    @property
    def has_momentum(self) -> bool:
        """Whether a state is to be kept."""
        return self.kind == "nesterov"

    @torch.no_grad()
    def take(self, anchor_N: Tensor, progress_N: Tensor, momentum_N: Tensor | None) -> None:
        """Move the anchor, and the momentum, in place."""
        if not self.has_momentum:
            anchor_N.add_(progress_N)
            return
        assert momentum_N is not None
        momentum_N.mul_(self.momentum).add_(progress_N)
        anchor_N.add_(progress_N, alpha=self.lr).add_(momentum_N, alpha=self.lr * self.momentum)
