"""What one machine can do for a run: rows a second, an update, a round; measured by doing them.

Run on each machine before a run whose config leaves `sync` open. Invariant: what is measured is
freed; what training takes from the memory of a device is not exceeded. Shape letters: N numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mulm.model.config import MicroLMConfig
from mulm.train.device import choose_precision, memory_bytes
from mulm.train.estimate import Work, measured_speed
from mulm.train.micro_batch import choose_micro_batch
from mulm.train.settled import SettledConfig
from mulm.train.sync.codecs import CODECS
from mulm.train.sync.link import Link
from mulm.train.sync.ways import Machine, Task

PACE_S = 4.0
"""Small models are tried again and again for so long: what else happens there is not their pace."""
_MOST_NUMBERS = 8_000_000
"""Of the weights that a round is tried with; the rest counts by its size."""
_N_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Pace:
    """Of one worker on a machine."""

    row_s: float
    update_s: float
    round_s: float
    rows_at_once: int

    def machine(self, name: str, n_workers: int, link: Link | None) -> Machine:
        """With its link, as `auto` wants it."""
        return Machine(
            name, n_workers, self.row_s, self.update_s, self.round_s, self.rows_at_once, link
        )


def measure_pace(
    config: SettledConfig, shape: MicroLMConfig, device: str, pace_s: float = PACE_S
) -> Pace:
    """Some rows forward and backward, an update, and the arithmetic of a round, at their best.

    Raises:
        DeviceError: the device cannot do what the config asks for.
    """
    precision, _ = choose_precision(config.precision, device)
    room = memory_bytes(torch.device(device))
    rows, _ = choose_micro_batch(config, shape, device, precision, room)
    work, began_s = Work(config, shape, device, precision, rows), time.perf_counter()
    tried = [measured_speed(work)]
    while time.perf_counter() < began_s + pace_s:
        tried.append(measured_speed(work))
    row_s, update_s = min(one.row_s for one in tried), min(one.update_s for one in tried)
    return Pace(row_s, update_s, round_s(shape.n_parameters, device), rows)


def round_s(
    n_parameters: int, device: str, now_s: Callable[[], float] = time.perf_counter
) -> float:
    """What a round of all weights takes from training: a copy out, and an addition.

    On a CPU also what encodes and decodes them, since that has the same cores.
    """
    count = min(n_parameters, _MOST_NUMBERS)
    weight_N = torch.randn(count).to(device)
    codec, least_s = CODECS["int8"], float("inf")
    for _ in range(_N_ROUNDS):
        began_s = now_s()
        copied_N = weight_N.to("cpu", torch.float32, copy=True)
        if device == "cpu":
            codec.decode(codec.encode(copied_N), count)
        weight_N.add_(copied_N.to(device))
        if device == "cuda":
            torch.cuda.synchronize()
        least_s = min(least_s, now_s() - began_s)
    return least_s * n_parameters / count


def task_of(config: SettledConfig, shape: MicroLMConfig) -> Task:
    """What is to be trained, as far as the choice depends on it."""
    asked, tried = config.diloco, 1 << 20
    bytes_each = {name: codec.size_bytes(tried) / tried for name, codec in CODECS.items()}
    return Task(
        steps=config.steps,
        n_rows=config.n_rows,
        row_tokens=config.row_tokens,
        n_parameters=shape.n_parameters,
        workers=config.workers,
        bytes_each=bytes_each,
        sum_wires=("fp32", "bf16") if config.wire_dtype == "fp32" else ("bf16",),
        wires=("int8", "int4") if asked.wire == "int8" else (asked.wire,),
        round_s=None if asked.round_s == "auto" else asked.round_s,
        fragments=asked.fragments,
        is_overlapped=asked.overlap,
        is_balanced=config.balance,
    )
