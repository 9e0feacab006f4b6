"""One worker: nothing to agree on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from mulm.train.gradients import divide


class SingleSync:
    """`Sync` of a worker that is alone."""

    manner = "single: one worker has nobody to agree with"

    def __init__(self) -> None:
        self._parameters: list[nn.Parameter] = []

    def attach(self, parameters: Sequence[nn.Parameter], owners: Sequence[int] = ()) -> None:
        """Remember them."""
        assert not owners, "nobody shares anything"
        self._parameters = list(parameters)

    def sum_values(self, values: Sequence[float]) -> list[float]:
        """The values themselves."""
        return list(values)

    def drop(self) -> None:
        """Nothing is under way."""

    @contextmanager
    def backward(self, *, is_last: bool) -> Iterator[None]:  # noqa: ARG002
        """Gradients stay where they are."""
        yield

    def mean_gradients(self, own_count: float, count: float) -> Tensor:  # noqa: ARG002
        """Divide by the count, which is its own."""
        return divide(self._parameters, count)

    def after_step(self) -> None:
        """Nobody else has weights."""
