"""What one training step needs of a device's memory, by arithmetic. Needs no torch.

Called by `mulm model plan` and by the choice of the micro-batch. Invariant: the peak is that of the
tensors that the step makes, within 5 %, which a test measures; what a driver, a library or a
fragmented allocator takes on top is not in it: `USABLE` leaves room for those.

Letters of the products: t tokens of a micro-batch, D d_model, F d_ff, Q heads times d_head, R kv
heads times d_head, V vocabulary, C tokens of a chunk of the loss, s bytes of the compute type.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import get_args

from mulm.model.config import ATTENTION_TILE_TOKENS, AttentionKernel, MicroLMConfig
from mulm.train.optimizer_config import OptimizerConfig
from mulm.train.optimizer_memory import (
    matrix_sizes,
    n_adapter_parameters,
    share_bytes,
    update_bytes,
)
from mulm.train.stages_config import LoraConfig, Matrix

USABLE = 0.90
"""Of a card's memory; the rest is the driver's context, the libraries' and the allocator's."""
LOSS_CHUNK_TOKENS = {"cpu": 256, "cuda": 2048}
"""Tokens whose logits are there at once; on a CPU they stay in its cache."""


@dataclass(frozen=True, slots=True)
class StepChoices:
    """What decides the memory of a step beside the shape; `rows` times `seq_len` tokens at once."""

    rows: int
    seq_len: int
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    is_checkpointed: bool = False
    compute_bytes: int = 2
    kernel: AttentionKernel = "sdpa"
    device: str = "cuda"
    n_micro_batches: int = 2
    """Of a step; from two on the gradients are there during all of the second."""
    lora: LoraConfig | None = None
    """Adapters that are trained instead of the weights."""
    n_shards: int = 1
    """Workers that share the states of the optimizer."""
    is_offloaded: bool = False
    """Whether the states lie in the memory of the CPU."""
    keeps_unsent: bool = False
    """Whether a number for each gradient stays, as with sums of low rank."""

    @property
    def n_tokens(self) -> int:
        """Of a micro-batch."""
        return self.rows * self.seq_len


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Bytes that live through a step, and the highest sum at each of its stages."""

    weights_bytes: int
    gradients_bytes: int
    states_bytes: int
    """Of the optimizer, on the device."""
    offloaded_bytes: int
    """Of the optimizer, in the memory of the CPU."""
    forward_bytes: int
    backward_bytes: int
    update_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The most that is there at once."""
        return max(self.forward_bytes, self.backward_bytes, self.update_bytes)


def step_memory(shape: MicroLMConfig, choices: StepChoices) -> StepMemory:
    """The memory of one training step."""
    lora = choices.lora
    weights = _weights_bytes(shape) + 4 * n_adapter_parameters(shape, lora)
    kept, own_gradients = share_bytes(shape, choices)
    states, offloaded = (0, kept) if choices.is_offloaded else (kept, 0)
    gradients = 4 * (n_adapter_parameters(shape, lora) if lora else shape.n_parameters)
    # The embedding has a gradient from the loss on until the end of the way back.
    unsent = gradients if choices.keeps_unsent else 0
    held = weights + states + unsent + (gradients if choices.n_micro_batches > 1 else 0)
    return StepMemory(
        weights_bytes=weights,
        gradients_bytes=gradients,
        states_bytes=states,
        offloaded_bytes=offloaded,
        forward_bytes=held + _forward_bytes(shape, choices),
        backward_bytes=held + _backward_bytes(shape, choices),
        update_bytes=weights + states + unsent + own_gradients + update_bytes(shape, choices),
    )


def largest_rows(shape: MicroLMConfig, choices: StepChoices, memory_bytes: float) -> int:
    """The largest micro-batch, in rows, whose step fits into so much memory; 0 if none does."""
    low, high = 0, 1
    while _fits(shape, replace(choices, rows=high), memory_bytes):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(shape, replace(choices, rows=middle), memory_bytes):
            low = middle
        else:
            high = middle
    return low


def _fits(shape: MicroLMConfig, choices: StepChoices, memory_bytes: float) -> bool:
    return step_memory(shape, choices).peak_bytes <= memory_bytes


def _weights_bytes(shape: MicroLMConfig) -> int:
    tables = 2 * shape.max_seq_len * shape.d_head
    return 4 * (shape.n_parameters + tables)


def _widths(shape: MicroLMConfig) -> tuple[int, int]:
    return shape.n_heads * shape.d_head, shape.n_kv_heads * shape.d_head


def _kept_bytes(shape: MicroLMConfig, choices: StepChoices) -> int:
    """What the way back needs, at the end of the blocks; the stream that leaves them included."""
    stream = choices.n_tokens * shape.d_model * choices.compute_bytes
    block = stream if choices.is_checkpointed else _block_bytes(shape, choices)
    tables = 2 * choices.seq_len * shape.d_head * choices.compute_bytes
    return shape.n_layers * block + stream + tables + 20 * choices.n_tokens


def _block_bytes(shape: MicroLMConfig, choices: StepChoices) -> int:
    """What a block keeps: its input, the inputs of its matrices, and attention's own."""
    t, s, (q, r) = choices.n_tokens, choices.compute_bytes, _widths(shape)
    # A frozen matrix needs its input for its adapter alone.
    adapted = set(choices.lora.matrices if choices.lora else get_args(Matrix))
    n_normed = bool(adapted & {"q", "k", "v"}) + bool(adapted & {"gate", "up"})
    streams = (2 + n_normed) * shape.d_model * s + 8
    heads = (q + r) * s + 4 * (shape.n_heads + shape.n_kv_heads) if shape.qk_norm else 0
    # In fp32 no fast kernel of CUDA shares heads of keys and values: they are repeated.
    kv = q if s == 4 and choices.device == "cuda" else r
    attention = (2 * q + 2 * kv) * s
    if choices.kernel == "plain":
        attention += int(shape.n_heads * _mean_keys(choices.seq_len) * s)
    else:
        attention += 4 * shape.n_heads
    gated = (2 + ("down" in adapted)) * shape.d_ff * s
    inner = choices.lora.rank * len(adapted) * s if choices.lora else 0
    return t * (streams + heads + attention + gated + inner) + _cast_bytes(shape, choices)


def _mean_keys(seq_len: int) -> float:
    """Keys per query, up to the end of the query's tile."""
    tile = ATTENTION_TILE_TOKENS
    ends = range(tile, seq_len + tile, tile)
    return sum((min(e, seq_len) - e + tile) * min(e, seq_len) for e in ends) / seq_len


def _cast_bytes(shape: MicroLMConfig, choices: StepChoices) -> int:
    """A block's matrices in the compute type, which the way back needs again."""
    adapters = n_adapter_parameters(shape, choices.lora) // shape.n_layers
    return 2 * (sum(matrix_sizes(shape)) + adapters) if choices.compute_bytes == 2 else 0


def _forward_bytes(shape: MicroLMConfig, choices: StepChoices) -> int:
    """The higher of two moments: a chunk of the loss, and the last block where nothing is kept."""
    kept = _kept_bytes(shape, choices)
    highest = kept + _loss_bytes(shape, choices)
    if not choices.is_checkpointed:
        return highest
    t, s, (q, r) = choices.n_tokens, choices.compute_bytes, _widths(shape)
    attention = (shape.d_model + 3 * q + 4 * r) * s
    if choices.kernel == "plain":
        attention += int(shape.n_heads * _mean_keys(choices.seq_len) * s)
    gated = (2 * shape.d_model + 3 * shape.d_ff) * s
    return max(highest, kept + t * (max(attention, gated) - shape.d_model * s))


def _loss_bytes(shape: MicroLMConfig, choices: StepChoices) -> int:
    """Hidden states, two gradients, the embedding cast, a chunk of logits."""
    s, embedding = choices.compute_bytes, shape.vocab_size * shape.d_model
    hidden = choices.n_tokens * shape.d_model * s
    cast = 2 * embedding if s == 2 else 0
    chunk = min(choices.n_tokens, LOSS_CHUNK_TOKENS[choices.device]) * shape.vocab_size
    softmax = (10 if s == 2 else 8) * chunk  # fp32, a copy for its sum, and bf16 logits
    if choices.lora:
        return 2 * hidden + cast + softmax
    return 2 * hidden + 4 * embedding + cast + max(softmax, s * (chunk + embedding))


def _backward_bytes(shape: MicroLMConfig, choices: StepChoices) -> int:
    """The highest of three moments: in the last block, in the first, and at the embedding.

    Gradients of blocks come as what was kept for them goes, so that between the first two the
    sum rises or falls all along.
    """
    t, s = choices.n_tokens, choices.compute_bytes
    embedding, stream = shape.vocab_size * shape.d_model, t * shape.d_model * s
    block = _block_bytes(shape, choices)
    kept_by_block = stream if choices.is_checkpointed else block
    # In the gated layer, where the block's other products are still kept; its own come again.
    working = block + 2 * t * shape.d_ff * s + stream
    working -= shape.d_ff * shape.d_model * 2 if s == 2 else 0
    is_first = choices.n_micro_batches == 1
    new_gradients = 4 * shape.n_block_parameters if is_first else 0
    if choices.lora:
        new_gradients = 4 * n_adapter_parameters(shape, choices.lora) // shape.n_layers
        new_gradients, embedding = new_gradients if is_first else 0, 0
    others = shape.n_layers - 1
    in_last_block = others * kept_by_block + working
    in_first_block = others * new_gradients + working
    at_embedding = shape.n_layers * new_gradients + 4 * embedding + (s + 4) * t * shape.d_model
    return 4 * embedding + max(in_last_block, in_first_block, at_embedding)
