"""Pieces of a step of the optimizer: each is done once and whole, though memory runs out between.

Used by `optim`. Invariant: where a piece fails for want of memory, what it has changed is as
before; called again, the step passes over the pieces that are done, so that its result is bit for
bit that of a step which nothing interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import torch
from torch import Tensor

RUNS_OUT = frozenset({"cuda"})
"""Devices on which torch tells of a full memory; a CPU's process is ended by its system."""


class Pieces:
    """Which pieces of the present step are done."""

    def __init__(self) -> None:
        self._done: set[Hashable] = set()

    def once(
        self,
        key: Hashable,
        work: Callable[[], object],
        changed: Callable[[], Iterable[Tensor]] = tuple,
    ) -> None:
        """Do `work` unless this step has done it; `changed` gives the live tensors that it changes.

        Work that changes nothing before its last allocation need not name any.

        Raises:
            torch.OutOfMemoryError: that of `work`, which left no trace.
        """
        if key in self._done:
            return
        live = list(changed())
        may_fail = any(tensor.device.type in RUNS_OUT for tensor in live)
        before = [tensor.clone() for tensor in live] if may_fail else []
        try:
            work()
        except torch.OutOfMemoryError:
            for tensor, value in zip(live, before, strict=False):
                tensor.copy_(value)
            raise
        self._done.add(key)

    def end(self) -> None:
        """The step is over; the next begins with nothing done."""
        self._done.clear()
