"""The plan of a model before it exists: what it weighs in each format, and what a token costs.

Called by `mulm model plan`, with `mulm.train.memory` for training. Needs no torch. Invariant: the
bytes are those of the tensors in the formats as we write them; headers of files and the tokenizer,
some hundred kB, are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mulm.model import int4_layout
from mulm.model.config import MicroLMConfig

GGUF_BLOCK = 32
_GGUF_BLOCK_BYTES = {"gguf Q8_0": 34, "gguf Q4_0": 18}


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a shape weighs."""

    n_parameters: int
    bytes_by_format: dict[str, int]
    kv_bytes_per_token: int
    """Of a cache in bf16."""


def sizes(shape: MicroLMConfig) -> Sizes:
    """All sizes of a shape."""
    n = shape.n_parameters
    return Sizes(
        n_parameters=n,
        bytes_by_format={
            "bf16": 2 * n,
            "fp16": 2 * n,
            "fp32": 4 * n,
            "int8": _quantized_bytes(shape, is_int4=False),
            "int4": _quantized_bytes(shape, is_int4=True),
            "gguf F16": _gguf_bytes(shape, "gguf F16"),
            "gguf Q8_0": _gguf_bytes(shape, "gguf Q8_0"),
            "gguf Q4_0": _gguf_bytes(shape, "gguf Q4_0"),
        },
        kv_bytes_per_token=2 * 2 * shape.n_layers * shape.n_kv_heads * shape.d_head,
    )


def _outer(shape: MicroLMConfig) -> tuple[int, int]:
    """Rows and columns of the embedding, and of the output weights that may be apart from it."""
    return shape.vocab_size * (1 if shape.tie_embeddings else 2), shape.d_model


def _n_gains(shape: MicroLMConfig) -> int:
    blocks = shape.n_layers * sum(rows * columns for rows, columns in shape.block_matrices)
    rows, columns = _outer(shape)
    return shape.n_parameters - blocks - rows * columns


def _quantized_bytes(shape: MicroLMConfig, *, is_int4: bool) -> int:
    """A fp32 scale per row; gains in fp32."""

    def matrix_bytes(rows: int, columns: int) -> int:
        return rows * ((int4_layout.row_bytes(columns) if is_int4 else columns) + 4)

    blocks = sum(matrix_bytes(*matrix) for matrix in shape.block_matrices)
    return matrix_bytes(*_outer(shape)) + shape.n_layers * blocks + 4 * _n_gains(shape)


def _gguf_bytes(shape: MicroLMConfig, kind: str) -> int:
    """Gains in F32; of Q4_0 the embedding in Q8_0, where every token passes."""
    outer_kind = "gguf Q8_0" if kind == "gguf Q4_0" else kind
    blocks = sum(_gguf_matrix(matrix, kind) for matrix in shape.block_matrices)
    return shape.n_layers * blocks + _gguf_matrix(_outer(shape), outer_kind) + 4 * _n_gains(shape)


def _gguf_matrix(matrix: tuple[int, int], kind: str) -> int:
    rows, columns = matrix
    if kind not in _GGUF_BLOCK_BYTES or columns % GGUF_BLOCK:
        return 2 * rows * columns
    return rows * columns // GGUF_BLOCK * _GGUF_BLOCK_BYTES[kind]
