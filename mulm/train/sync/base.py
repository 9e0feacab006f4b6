"""The contract of synchronisation between the workers of a run.

Called by the training loop; `choice` picks the strategy. A strategy owns when workers talk: about
every step's gradients, or only now and then about weights. One step goes so, on every worker alike:

    backward(is_last=...)       around each way back; after the last a worker's gradients are final
    sum_values([loss, ...])     what every worker must know to decide alike
    mean_gradients(own, all)    where the step is to be taken: gradients become what weights follow
    after_step()                where it was taken: the weights have moved
    drop()                      where it was passed over: what was begun for it is forgotten

Invariants: all workers call the same methods in the same order; the same run on the same number of
workers repeats bit for bit; what a strategy sends for a step counts once, also where a worker
computes its gradients again because memory ran out in the midst of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor, nn


class Sync(Protocol):
    """How the workers of one run agree."""

    @property
    def manner(self) -> str:
        """How they do, and why so, for the log."""

    def attach(self, parameters: Sequence[nn.Parameter], owners: Sequence[int] = ()) -> None:
        """Take note of what is learned; called once, before the first step.

        The order is the same on every worker, and that of the model's layers. With owners, one
        for each parameter, that worker alone steps it: it needs the gradient, and after the step
        the others need the weights.
        """

    def sum_values(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all workers, in fp64; every worker gets the same numbers.

        A barrier: it returns when all workers have called it.
        """

    def drop(self) -> None:
        """Forget gradients that were begun for a step which is passed over, or at which all stop.

        Waits for what is under way. Never called between two attempts at the same gradients.
        """

    def backward(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Around the way back of one micro-batch; `is_last` where it is this worker's last.

        Gradients add up in `grad`. During the last way back a strategy may take a gradient that
        is complete and begin to send it; `grad` is then None until `mean_gradients`. An error
        may leave this at any moment. If the worker computes its gradients again, what was begun
        is kept, and what comes for it a second time is dropped.
        """

    def mean_gradients(self, own_count: float, count: float) -> Tensor:
        """Make each gradient the mean that this worker's weights are to follow.

        Workers hold gradients of *summed* losses over `own_count` targets; all workers together
        have `count`. Summed over workers and divided by `count` they are exact however unevenly
        the rows are split. A strategy that does not talk at this step divides by `own_count`.

        Returns:
            The norm of each mean gradient, by parameter; the same on all workers that go the
            same way. Where another worker moves a parameter, its `grad` is None.
        """

    def after_step(self) -> None:
        """The optimizer has stepped. A strategy may now talk about weights, and change them."""
