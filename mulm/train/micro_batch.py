"""How many rows one device runs at once. Needs no torch.

Called by the training loop. Invariant: the choice changes the order of sums and nothing else, so a
resume may choose anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from mulm.model.config import MicroLMConfig
from mulm.train.memory import USABLE, largest_rows
from mulm.train.placement import choose_placement, step_choices
from mulm.train.settled import SettledConfig

FILLING_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Tokens that fill a device; more at once take memory and no time off."""
T = TypeVar("T")


class MicroBatch(NamedTuple):
    """Rows at once, and why."""

    rows: int
    reason: str


def halved(chosen: MicroBatch) -> MicroBatch | None:
    """The next smaller power of two, for a device whose memory ran out; None below one row."""
    if chosen.rows == 1:
        return None
    rows = 1 << ((chosen.rows - 1).bit_length() - 1)
    return MicroBatch(rows, "memory ran out with more")


def marked_last(batches: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Each micro-batch of a step, and whether it is the last."""
    before: list[T] = []
    for batch in batches:
        if before:
            yield before.pop(), False
        before.append(batch)
    if before:
        yield before.pop(), True


def choose_micro_batch(
    config: SettledConfig,
    shape: MicroLMConfig,
    device: str,
    precision: str,
    memory_bytes: int | None,
) -> MicroBatch:
    """What was asked for, else what fills the device and fits into its `memory_bytes`.

    None means that memory is no bound.
    """
    if config.micro_batch_rows != "auto":
        return MicroBatch(config.micro_batch_rows, "asked for")
    filling = max(1, FILLING_TOKENS[device] // config.row_tokens)
    if memory_bytes is None:
        return MicroBatch(filling, f"they fill a {device}")
    placed = choose_placement(config, shape, device, precision, memory_bytes, config.workers)
    choices = step_choices(config, device, precision, 1, placed)
    fitting = largest_rows(shape, choices, USABLE * memory_bytes)
    fitting //= config.row_tokens // config.seq_len
    if not fitting:
        return MicroBatch(1, "even one row may not fit: `mulm model plan` shows what would")
    if fitting < filling:
        return MicroBatch(fitting, f"what fits into {memory_bytes / 1e9:.0f} GB")
    return MicroBatch(filling, f"they fill a {device}")
