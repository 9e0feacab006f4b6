"""Fragments: the parameters as one line of numbers, cut into parts that are exchanged in turn.

Used by an island. Invariants: the cut depends on shapes, their order and the number of fragments
alone, so all islands have the same; every number is in one fragment. Shape letters: N numbers of a
fragment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Fragment:
    """Numbers of some parameters: of each a piece [start, stop) of its flat form."""

    pieces: tuple[tuple[nn.Parameter, int, int], ...]

    @property
    def size(self) -> int:
        """How many numbers."""
        return sum(stop - start for _, start, stop in self.pieces)

    @torch.no_grad()
    def read(self) -> Tensor:
        """A copy as fp32 on the CPU."""
        parts = [p.view(-1)[start:stop] for p, start, stop in self.pieces]
        return torch.cat([part.detach().to("cpu", torch.float32) for part in parts])

    @torch.no_grad()
    def add(self, change_N: Tensor) -> None:
        """Move the parameters."""
        for (parameter, start, stop), part in self._with_parts(change_N):
            parameter.view(-1)[start:stop].add_(part.to(parameter.device, parameter.dtype))

    @torch.no_grad()
    def write(self, value_N: Tensor) -> None:
        """Set the parameters."""
        for (parameter, start, stop), part in self._with_parts(value_N):
            parameter.view(-1)[start:stop].copy_(part)

    def _with_parts(self, value_N: Tensor) -> list[tuple[tuple[nn.Parameter, int, int], Tensor]]:
        sizes = [stop - start for _, start, stop in self.pieces]
        return list(zip(self.pieces, torch.split(value_N, sizes), strict=True))


def cut_fragments(parameters: Sequence[nn.Parameter], count: int) -> list[Fragment]:
    """`count` fragments of equal size, up to a number."""
    ends = list(accumulate((p.numel() for p in parameters), initial=0))
    borders = [ends[-1] * n // count for n in range(count + 1)]
    return [
        Fragment(
            tuple(
                (parameter, max(start, first) - first, min(stop, last) - first)
                for parameter, (first, last) in zip(parameters, pairwise(ends), strict=True)
                if first < stop and start < last
            )
        )
        for start, stop in pairwise(borders)
    ]
