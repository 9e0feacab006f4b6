"""How many rows one device runs at once. Needs no torch.

Called by the training loop. Invariant: the choice changes the order of sums and nothing else, so a
resume may choose anew.
"""

from __future__ import annotations

from typing import NamedTuple

from mulm.model.config import MicroLMConfig
from mulm.train.memory import USABLE, StepChoices, largest_rows
from mulm.train.settled import SettledConfig

FILLING_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Tokens that fill a device; more at once take memory and no time off."""


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
    choices = step_choices(config, device, precision, 1)
    fitting = largest_rows(shape, choices, USABLE * memory_bytes)
    fitting //= config.row_tokens // config.seq_len
    if not fitting:
        return MicroBatch(1, "even one row may not fit: `mulm model plan` shows what would")
    if fitting < filling:
        return MicroBatch(fitting, f"what fits into {memory_bytes / 1e9:.0f} GB")
    return MicroBatch(filling, f"they fill a {device}")


def step_choices(config: SettledConfig, device: str, precision: str, rows: int) -> StepChoices:
    """What decides the memory of a step with that many rows at once."""
    return StepChoices(
        rows=rows * (config.row_tokens // config.seq_len),
        seq_len=config.seq_len,
        optimizer=config.optimizer,
        is_checkpointed=config.activation_checkpointing,
        compute_bytes=2 if precision == "bf16" else 4,
        kernel="plain" if config.attention == "plain" else "sdpa",
        device=device,
        lora=config.lora,
    )
