"""Work that goes on when a device's memory runs out.

Called by the training loop around gradients and validation, which are done again with smaller
micro-batches, and around the optimizer's step, which goes on where it was. Invariant: the result is
that of work which fitted at once; of gradients, up to the order of sums. Each worker does so by
itself: others wait for it in the next sum, as for any slower one.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from mulm.errors import DeviceError
from mulm.train.objectives.base import Objective

log = logging.getLogger(__name__)
T = TypeVar("T")
_TRIES = 3


def with_room(
    work: Callable[[], T],
    model: nn.Module,
    objective: Objective[Any, Any],
    tell: Callable[[str], None],
) -> T:
    """Do `work`; again with fewer rows at once for as long as it does not fit.

    Raises:
        DeviceError: not even one row at once fits.
    """
    while (done := _attempt(work)) is None:
        # Here, not where the error was caught: it holds the frames that hold the tensors.
        model.zero_grad(set_to_none=True)
        _empty_cache()
        rows = objective.shrink()
        if rows is None:
            raise DeviceError(
                "the device's memory does not hold a step with one row at once",
                hint="use activation_checkpointing: true, a shorter seq_len, or"
                " offload: true; `mulm model plan` shows what fits",
            )
        text = f"out of memory: from now on {rows} rows at once; the global batch stays"
        log.warning("out of memory rows_at_once=%s", rows)
        tell(text)
    return done[0]


def with_emptied_cache(step: Callable[[], None]) -> None:
    """Take a step that goes on where it was; again where memory ran out, `_TRIES` times in all.

    Raises:
        DeviceError: what the device keeps for reuse was given back, and still it does not fit.
    """
    for _ in range(_TRIES):
        if _attempt(step):
            return
        log.warning("out of memory in the optimizer; trying again with an empty cache")
        _empty_cache()
    raise DeviceError(
        "the device's memory does not hold a step of the optimizer",
        hint="use offload: true or optimizer.state_dtype: int8; `mulm model plan` shows what fits",
    )


def _empty_cache() -> None:
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _attempt(work: Callable[[], T]) -> tuple[T] | None:
    try:
        return (work(),)
    except torch.OutOfMemoryError:
        return None
