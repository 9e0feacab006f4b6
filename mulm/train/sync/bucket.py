"""Buckets: gradients that travel together.

Cut and filled by `ddp`. Invariants: the cut depends on shapes, order and owners alone, so it is
the same on every worker; a bucket is sent once a step, whatever happens between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(slots=True, eq=False)
class Bucket:
    """Some parameters and, while their gradients travel, what holds these."""

    parameters: list[nn.Parameter]
    owner: int | None = None
    """The worker that gets the sum; None where all do."""
    n_missing: int = 0
    """Gradients that the last way back has still to complete."""
    _flat_N: Tensor | None = None
    _work: distributed.Work | None = None

    @property
    def size_bytes(self) -> int:
        """Of its gradients."""
        return sum(parameter.nbytes for parameter in self.parameters)

    @property
    def is_begun(self) -> bool:
        """Whether its gradients are under way, or there."""
        return self._flat_N is not None

    def begin(self, send: Callable[[Tensor], distributed.Work], wire_dtype: torch.dtype) -> None:
        """Take the gradients away from their parameters and send them, flat.

        Until they are taken nothing has changed, so memory may run out in the midst of it.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        assert len(gradients) == len(self.parameters), "a parameter has no part in the loss"
        # A large tensor stands alone, and is sent from where it lies.
        is_alone = len(gradients) == 1
        flat_N = gradients[0].view(-1) if is_alone else torch.cat([g.view(-1) for g in gradients])
        flat_N = flat_N.to(wire_dtype)
        self._work, self._flat_N = send(flat_N), flat_N
        for parameter in self.parameters:
            parameter.grad = None

    def finish(self, *, is_wanted: bool) -> None:
        """Wait for the sum and give it to the parameters, where it `is_wanted`."""
        assert self._work is not None
        assert self._flat_N is not None
        self._work.wait()
        summed_N, self._flat_N, self._work = self._flat_N, None, None
        if not is_wanted:
            return
        sizes = [parameter.numel() for parameter in self.parameters]
        parts = torch.split(summed_N.float(), sizes)
        for parameter, part in zip(self.parameters, parts, strict=True):
            assert parameter.grad is None, "a gradient was completed twice"
            parameter.grad = part.view_as(parameter)


def cut(
    parameters: Sequence[nn.Parameter], bucket_bytes: int, owners: Sequence[int] = ()
) -> list[Bucket]:
    """Cut a list into buckets of at most `bucket_bytes`; a larger tensor stands alone.

    With owners each bucket has one. They come in the order in which they are complete when
    gradients come in the order of the list.
    """
    cuts: dict[Bucket, int] = {}
    open_ones: dict[int | None, Bucket] = {}
    wanted_by: Sequence[int | None] = owners or [None] * len(parameters)
    for place, (parameter, owner) in enumerate(zip(parameters, wanted_by, strict=True)):
        bucket = open_ones.get(owner)
        if bucket is None or bucket.size_bytes + parameter.nbytes > bucket_bytes:
            bucket = open_ones[owner] = Bucket([], owner)
        bucket.parameters.append(parameter)
        cuts[bucket] = place
    return sorted(cuts, key=cuts.__getitem__)
