"""The contract of gradient synchronisation between workers.

Called by the training loop. A strategy never touches weights; it makes gradients equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Sync(Protocol):
    """How the workers of one run agree."""

    def sum_values(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all workers, in fp64; every worker gets the same numbers.

        A barrier: it returns when all workers have called it.
        """

    def sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Replace each gradient, in place, by its sum over all workers.

        Workers hold the gradients of *summed* losses, so that dividing by the number of tokens
        of all workers is exact however unevenly the rows are split.
        """
