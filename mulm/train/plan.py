"""The plan of a training run: which choices fit on which card. Needs no torch.

Called by `mulm model plan`. Invariant: a micro-batch that it names fits by `mulm.train.memory`,
with room left for what is not tensors, and one row more does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mulm.model.config import MicroLMConfig
from mulm.train.memory import USABLE, StepChoices, largest_rows, step_memory
from mulm.train.optimizer_config import OptimizerConfig

CARDS_GB = (8, 12, 24, 32)
"""Memory of common cards, in 2^30 bytes as their makers count."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to train, its least memory, and the rows at once that each card takes."""

    optimizer: str
    state_dtype: str
    is_checkpointed: bool
    is_offloaded: bool
    """Whether states are in the memory of the CPU."""
    one_row_bytes: int
    """The peak of a step with one row at once."""
    rows_by_card_gb: dict[int, int]


def options(shape: MicroLMConfig, seq_len: int) -> list[Option]:
    """All ways, the fastest and largest first; at the end those with states on the CPU."""
    last_resort = [replace(c, is_offloaded=True) for c in all_choices(seq_len) if _saves_most(c)]
    return [_option(shape, choices) for choices in (*all_choices(seq_len), *last_resort)]


def all_choices(seq_len: int) -> Iterator[StepChoices]:
    """Every optimizer, type of states and way with blocks, all on the device, one row at once."""
    for is_checkpointed in (False, True):
        for kind in ("adamw", "muon"):
            for state_dtype in ("fp32", "bf16", "int8"):
                values = {"kind": kind, "state_dtype": state_dtype}
                optimizer = OptimizerConfig.model_validate(values)
                yield StepChoices(1, seq_len, optimizer, is_checkpointed)


def _saves_most(choices: StepChoices) -> bool:
    """Of those whose states are exact: away from the device their size is no matter there."""
    return choices.is_checkpointed and choices.optimizer.state_dtype == "fp32"


def _option(shape: MicroLMConfig, choices: StepChoices) -> Option:
    return Option(
        optimizer=choices.optimizer.kind,
        state_dtype=choices.optimizer.state_dtype,
        is_checkpointed=choices.is_checkpointed,
        is_offloaded=choices.is_offloaded,
        one_row_bytes=step_memory(shape, choices).peak_bytes,
        rows_by_card_gb={
            card: largest_rows(shape, choices, USABLE * card * (1 << 30)) for card in CARDS_GB
        },
    )
