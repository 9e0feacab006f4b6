"""What the optimizer needs of a device's memory, by arithmetic: states, and what a step takes.

Part of the plan in `memory`, by which it is called. Needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from mulm.model.config import MicroLMConfig
from mulm.train.optimizer_config import STATE_BLOCK, OptimizerConfig, is_coded
from mulm.train.shard import largest_share
from mulm.train.stages_config import LoraConfig, Matrix

if TYPE_CHECKING:
    from mulm.train.memory import StepChoices

PART_NUMBERS = 1 << 22
"""Numbers of a tensor that AdamW moves at once."""
_ADAMW_BYTES = {"fp32": 4, "bf16": 12, "int8": 17}
"""For each number that it moves at once."""
BATCH_NUMBERS = 1 << 24
"""Numbers in the matrices that Muon turns at once; a larger matrix goes alone."""


def states_bytes(
    shape: MicroLMConfig, optimizer: OptimizerConfig, lora: LoraConfig | None = None
) -> int:
    """All averages of the optimizer; those of adapters alone where there are any."""
    learned = _learned(shape, optimizer, lora)
    return sum(count * tensor_state_bytes(n, optimizer) for n, count in learned) + 8


def tensor_state_bytes(n_numbers: int, optimizer: OptimizerConfig) -> int:
    """One average of a tensor of that size."""
    if optimizer.state_dtype == "int8" and is_coded(n_numbers):
        return -(-n_numbers // STATE_BLOCK) * (STATE_BLOCK + 4)
    return n_numbers * (2 if optimizer.state_dtype == "bf16" else 4)


def _learned(
    shape: MicroLMConfig, optimizer: OptimizerConfig, lora: LoraConfig | None
) -> list[tuple[int, int]]:
    """Numbers of each tensor that is learned, and how many averages it has."""
    of_matrices = 1 if optimizer.kind == "muon" else 2
    if lora:
        sides = [side for sides in adapted_sides(shape, lora) for side in sides]
        matrices, others = [lora.rank * side for side in sides], list[int]()
    else:
        matrices = matrix_sizes(shape)
        heads = [shape.d_head] * (2 * shape.n_layers if shape.qk_norm else 0)
        gains = [shape.d_model] * (2 * shape.n_layers + 1) + heads
        tables = [shape.vocab_size * shape.d_model] * (1 if shape.tie_embeddings else 2)
        others = tables + gains
    return [(n, of_matrices) for n in matrices * shape.n_layers] + [(n, 2) for n in others]


def share_bytes(shape: MicroLMConfig, choices: StepChoices) -> tuple[int, int]:
    """States that a worker keeps, and gradients that it has when the optimizer steps."""
    optimizer, n_shards = choices.optimizer, choices.n_shards
    learned = dict(enumerate(_learned(shape, optimizer, choices.lora)))
    costs = {place: n * count for place, (n, count) in learned.items()}
    states = {place: c * tensor_state_bytes(n, optimizer) for place, (n, c) in learned.items()}
    gradients = {place: 4 * n for place, (n, _) in learned.items()}
    return largest_share(costs, states, n_shards) + 8, largest_share(costs, gradients, n_shards)


def update_bytes(shape: MicroLMConfig, choices: StepChoices) -> int:
    """What the optimizer needs beside its states."""
    if choices.lora:
        return _adapters_update_bytes(shape, choices, choices.lora)
    largest = shape.vocab_size * shape.d_model
    if choices.optimizer.kind == "adamw":
        largest = max(largest, *matrix_sizes(shape))
    adamw = _adamw_bytes(choices) * min(PART_NUMBERS, largest)
    return max(adamw, _muon_bytes(shape, choices) if choices.optimizer.kind == "muon" else 0)


def _adamw_bytes(choices: StepChoices) -> int:
    """For each number that AdamW moves at once: its work, what came from the CPU, a way back."""
    state_dtype = choices.optimizer.state_dtype
    kept = {"fp32": 8, "bf16": 4, "int8": 3}[state_dtype]
    n_bytes = _ADAMW_BYTES[state_dtype] + (kept if choices.is_offloaded else 0)
    return n_bytes + _undo_bytes(choices, 0 if choices.is_offloaded else kept)


def _undo_bytes(choices: StepChoices, states: int) -> int:
    """Copies of a weight and its states, for each number that moves, until it has moved.

    Only a GPU tells of a full memory.
    """
    return 4 + states if choices.device == "cuda" else 0


def _adapters_update_bytes(shape: MicroLMConfig, choices: StepChoices, lora: LoraConfig) -> int:
    """The same for adapters: long and narrow factors."""
    longest = lora.rank * max(side for sides in adapted_sides(shape, lora) for side in sides)
    if choices.optimizer.kind == "adamw":
        return _adamw_bytes(choices) * min(PART_NUMBERS, longest)
    n_factors = 2 * len(lora.matrices) * shape.n_layers
    count = min(n_factors, max(1, BATCH_NUMBERS // longest))
    undo = count * longest * _muon_undo_bytes(choices)
    return undo + count * choices.compute_bytes * (3 * longest + 2 * lora.rank**2)


def _muon_bytes(shape: MicroLMConfig, choices: StepChoices) -> int:
    """A batch of the largest matrices, its next estimate, and two squares of each."""
    n, side = shape.d_ff * shape.d_model, min(shape.d_ff, shape.d_model)
    count = min(3 * shape.n_layers, max(1, BATCH_NUMBERS // n))
    undo = count * n * _muon_undo_bytes(choices)
    return undo + count * choices.compute_bytes * (3 * n + 2 * side**2)


def _muon_undo_bytes(choices: StepChoices) -> int:
    kept = {"fp32": 4, "bf16": 2, "int8": 2}[choices.optimizer.state_dtype]
    return _undo_bytes(choices, 0 if choices.is_offloaded else kept)


def n_adapter_parameters(shape: MicroLMConfig, lora: LoraConfig | None) -> int:
    """Numbers of all adapters; none without."""
    if lora is None:
        return 0
    sides = sum(rows + columns for rows, columns in adapted_sides(shape, lora))
    return shape.n_layers * lora.rank * sides


def adapted_sides(shape: MicroLMConfig, lora: LoraConfig) -> list[tuple[int, int]]:
    """Rows and columns of the matrices of a block that have an adapter."""
    named = zip(get_args(Matrix), shape.block_matrices, strict=True)
    return [sides for name, sides in named if name in lora.matrices]


def matrix_sizes(shape: MicroLMConfig) -> list[int]:
    """Numbers in each matrix of a block."""
    return [rows * columns for rows, columns in shape.block_matrices]
