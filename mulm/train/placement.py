"""Where optimizer states live: on every worker's device, shared out, or in the CPU's memory.

Chosen before a run's first step and with its micro-batch. Needs no torch. Invariant: no choice
changes a bit of what is learned, so a resume may choose anew; a slower way is taken only where the
plan of memory says that no faster one fits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mulm.model.config import MicroLMConfig
from mulm.train.memory import USABLE, StepChoices, largest_rows
from mulm.train.settled import SettledConfig


@dataclass(frozen=True, slots=True)
class Placement:
    """This worker's part, and why."""

    n_shards: int = 1
    """Workers that share the states of all parameters."""
    rank: int = 0
    is_offloaded: bool = False
    """Whether states lie in the CPU's memory and visit the device during the step."""
    reason: str = ""

    @property
    def manner(self) -> str:
        """For the log."""
        where = "the CPU's memory" if self.is_offloaded else "the device"
        shared = f", shared out among {self.n_shards} workers" if self.n_shards > 1 else ""
        return f"optimizer states in {where}{shared} ({self.reason})"


EVERYTHING_HERE = Placement()


def choose_placement(
    config: SettledConfig,
    shape: MicroLMConfig | None,
    device: str,
    precision: str,
    memory_bytes: int | None,
    n_workers: int,
) -> Placement:
    """The first way that fits with one row at once, else the smallest.

    Without a shape, or where memory is no bound, nothing is computed.
    """
    ways = list(_ways(config, n_workers))
    if len(ways) == 1:
        return ways[0]
    if shape is None or memory_bytes is None:
        return replace(ways[0], reason="memory is no bound")
    n_rows_least = config.row_tokens // config.seq_len
    for place, way in enumerate(ways):
        choices = step_choices(config, device, precision, 1, way)
        if largest_rows(shape, choices, USABLE * memory_bytes) >= n_rows_least:
            return replace(way, reason="they fit" if place == 0 else "nothing faster fits")
    return replace(ways[-1], reason="even so one row may not fit")


def step_choices(
    config: SettledConfig, device: str, precision: str, rows: int, placement: Placement
) -> StepChoices:
    """What decides the memory of a step with that many rows at once."""
    return StepChoices(
        rows=rows * (config.row_tokens // config.seq_len),
        seq_len=config.seq_len,
        optimizer=config.optimizer,
        is_checkpointed=config.activation_checkpointing,
        compute_bytes=4 if precision == "fp32" else 2,
        kernel="plain" if config.attention == "plain" else "sdpa",
        device=device,
        lora=config.lora,
        n_shards=placement.n_shards,
        is_offloaded=placement.is_offloaded,
        keeps_unsent=config.sync == "ddp_lowrank" and config.workers > 1,
    )


def _ways(config: SettledConfig, n_workers: int) -> Iterator[Placement]:
    """All that the config allows, the fastest first; no shares where there is one worker."""
    shards = {True: [n_workers], False: [1], "auto": sorted({1, n_workers})}[config.shard]
    offloads = {True: [True], False: [False], "auto": [False, True]}[config.offload]
    for is_offloaded in offloads:
        for n_shards in shards:
            yield Placement(n_shards, is_offloaded=is_offloaded, reason="asked for")
