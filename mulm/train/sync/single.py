"""One worker: nothing to agree on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class SingleSync:
    """`Sync` of a worker that is alone."""

    def sum_values(self, values: Sequence[float]) -> list[float]:
        """The values themselves."""
        return list(values)

    def sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Leave them as they are."""
