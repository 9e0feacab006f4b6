"""Compares the plan of a training step's memory with what a GPU really allocates.

    python -m benchmarks.gpu_plan --size base

For each way to train, one step of two micro-batches runs on the GPU; the peak that
`torch.cuda.max_memory_allocated` gives stands beside the plan. docs/memory.md has the table.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from mulm.model.compute import Compute
from mulm.model.config import MicroLMConfig
from mulm.model.microlm import MicroLM
from mulm.model.presets import preset
from mulm.train.config import OptimizerConfig
from mulm.train.loss import sum_cross_entropy
from mulm.train.memory import USABLE, StepChoices, largest_rows, step_memory
from mulm.train.optim import Optimizer
from mulm.train.plan import all_choices
from mulm.train.settled import SettledOptimizer


def main() -> None:
    """Print a table, a line as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="base")
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--most-rows", type=int, default=16, help="Never more rows at once.")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no usable GPU is here: nothing is measured")
    total_bytes = torch.cuda.get_device_properties(0).total_memory
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}, {options.size}")
    print("| optimizer | states | blocks | rows | plan GB | measured GB | plan / measured |")
    print("|---|---|---|---|---|---|---|")
    shape = preset(options.size, options.vocab_size)
    for choices in all_choices(options.seq_len):
        rows = min(options.most_rows, largest_rows(shape, choices, USABLE * total_bytes))
        if rows:
            print(compare(shape, replace(choices, rows=rows)), flush=True)


def compare(shape: MicroLMConfig, choices: StepChoices) -> str:
    """A line of the table."""
    planned, measured = step_memory(shape, choices).peak_bytes, measured_peak(shape, choices)
    optimizer: OptimizerConfig = choices.optimizer
    blocks = "again" if choices.is_checkpointed else "kept"
    return (
        f"| {optimizer.kind} | {optimizer.state_dtype} | {blocks} | {choices.rows}"
        f" | {planned / 1e9:.2f} | {measured / 1e9:.2f} | {planned / measured:.3f} |"
    )


def measured_peak(shape: MicroLMConfig, choices: StepChoices) -> int:
    """Bytes of tensors at the highest moment of one step on the GPU."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    generator = torch.Generator().manual_seed(0)
    model = MicroLM(shape).init_weights(generator).cuda()
    rates = {"matrix_lr": 0.02, "embedding_lr": 0.004, "weight_decay": 0.0}
    settled = SettledOptimizer.model_validate(choices.optimizer.model_dump() | rates)
    optimizer = Optimizer(model, settled, torch.bfloat16)
    compute = Compute(torch.bfloat16, choices.kernel, choices.is_checkpointed)
    size = (choices.rows, choices.seq_len + 1)
    ids_BT = torch.randint(0, shape.vocab_size, size, generator=generator).cuda()
    for _ in range(choices.n_micro_batches):
        hidden_ND = model(ids_BT[:, :-1], compute).flatten(0, 1)
        weight_VD, targets_N = model.output_weight_VD, ids_BT[:, 1:].flatten()
        loss = sum_cross_entropy(hidden_ND, weight_VD, targets_N, torch.bfloat16)
        del hidden_ND
        torch.autograd.backward(loss)
    optimizer.step(1.0)
    return int(torch.cuda.max_memory_allocated())


if __name__ == "__main__":
    main()
