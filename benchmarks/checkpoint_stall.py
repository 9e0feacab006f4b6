"""How much of the training loop's time checkpoints take: the copy, and waiting for the one before.

    OMP_NUM_THREADS=1 python -m benchmarks.checkpoint_stall --shape demo
    OMP_NUM_THREADS=1 python -m benchmarks.checkpoint_stall --shape 20m --steps 12

Real steps of random tokens are timed, then the real copies and writes of that state, with the steps
of `--every` between two of them standing for the time that a writer has. What the thread of the
writer takes of the cores meanwhile is in none of both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.train_step import SHAPES, make_step
from mulm.model.compute import Compute
from mulm.model.microlm import MicroLM
from mulm.train.checkpoint_writer import CheckpointWriter
from mulm.train.optim import learned_parameters
from mulm.train.settled import SettledConfig
from mulm.train.state import Snapshot, TrainState, fresh, snapshot

N_CHECKPOINTS = 5


class Nothing:
    """What of an objective a snapshot asks for."""

    judged_by = "bits_per_byte"
    origin: dict[str, Any] = {}


NOTHING: Any = Nothing()


def main() -> None:
    """Print a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
    options = parser.parse_args()
    shape, _, seq_len = SHAPES[options.shape]
    config = settled_config(seq_len)
    state = fresh(config, MicroLM(shape), torch.device("cpu"), "fp32")
    step_s = seconds_per_step(options.shape, state, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        copy_s, write_s = seconds_per_checkpoint(config, state, Path(folder))
    wait_s = max(0.0, write_s - options.every * step_s)
    stall_s, between_s = copy_s + wait_s, options.every * step_s
    n_bytes = sum(tensor.nbytes for tensor in copied(state, config).tensors.values())
    print(
        f"{options.shape}: {n_bytes / 1e6:.0f} MB, a step {step_s * 1000:.0f} ms, a copy"
        f" {copy_s * 1000:.1f} ms, a write {write_s * 1000:.0f} ms; every {options.every} steps the"
        f" loop stands still for {stall_s / (stall_s + between_s):.3%}"
    )


def settled_config(seq_len: int) -> SettledConfig:
    """One row a step; rates that move nothing far."""
    return SettledConfig.model_validate(
        {
            "name": "stall", "dataset": "none", "steps": 1, "seq_len": seq_len,
            "batch_tokens": seq_len, "schedule": {"warmup": 0.0},
            "optimizer": {"matrix_lr": 0.02, "embedding_lr": 0.004, "weight_decay": 0.0},
        }
    )  # fmt: skip


def seconds_per_step(shape_name: str, state: TrainState, n_steps: int) -> float:
    """The median of forward, backward and the optimizer, which fills its state."""
    step = make_step(*SHAPES[shape_name], Compute(torch.bfloat16))
    generator, times = torch.Generator().manual_seed(0), []
    for parameter in learned_parameters(state.model).values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for _ in range(n_steps + 1):
        started_s = time.perf_counter()
        step()
        state.optimizer.step(1e-6)
        times.append(time.perf_counter() - started_s)
    return statistics.median(times[1:])


def copied(state: TrainState, config: SettledConfig) -> Snapshot:
    """What the loop makes of its state, with nothing else to do meanwhile."""
    return snapshot(state, config, NOTHING, state.optimizer.collected())


def seconds_per_checkpoint(
    config: SettledConfig, state: TrainState, folder: Path
) -> tuple[float, float]:
    """Medians of what the loop waits for, and of what goes on in the writer's thread."""
    writer, copies, writes = CheckpointWriter(folder, 2, lambda: None), [], []
    for number in range(N_CHECKPOINTS):
        state.step = number
        started_s = time.perf_counter()
        writer.start(copied(state, config))
        copied_s = time.perf_counter()
        writer.wait()
        copies.append(copied_s - started_s)
        writes.append(time.perf_counter() - copied_s)
    writer.close()
    return statistics.median(copies), statistics.median(writes)


if __name__ == "__main__":
    main()
