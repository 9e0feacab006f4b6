"""The shape of a µLM, as stored in its `config.json`.

Read by everything that builds, trains, serves or exports a model; needs no torch.
Invariant: every shape that passes validation can be expressed as a `Qwen3ForCausalLM`
(or, without `qk_norm`, as a `LlamaForCausalLM`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mulm.config import Frozen

Count = Annotated[int, Field(ge=1)]
AttentionKernel = Literal["auto", "plain", "sdpa", "flex"]
"""How attention over whole rows is computed; see `mulm.model.attention`."""
ATTENTION_TILE_TOKENS = 64
"""Queries of a tile of the plain kernel: smaller tiles waste less above the diagonal, larger ones
multiply faster."""


class LinearRope(Frozen):
    """Positions divided by `factor`: all frequencies alike (Chen et al., 2023)."""

    kind: Literal["linear"] = "linear"
    factor: Annotated[float, Field(ge=1)]


class Llama3Rope(Frozen):
    """Low frequencies divided by `factor`, high ones kept, those between blended (Llama 3.1).

    A frequency is low if it turns less than `low_freq_factor` times within
    `original_max_seq_len` positions, and high if more than `high_freq_factor` times.
    """

    kind: Literal["llama3"] = "llama3"
    factor: Annotated[float, Field(ge=1)]
    low_freq_factor: Annotated[float, Field(gt=0)]
    high_freq_factor: Annotated[float, Field(gt=0)]
    original_max_seq_len: Count

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Llama3Rope:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError("low_freq_factor must be smaller than high_freq_factor")
        return self


class YarnRope(Frozen):
    """YaRN (Peng et al., 2023): as Llama 3's by another blend, and attention a little sharper.

    The blend goes linearly over the dimensions between the one that turns `beta_fast` times within
    `original_max_seq_len` positions, which is kept, and the one that turns `beta_slow` times.
    """

    kind: Literal["yarn"] = "yarn"
    factor: Annotated[float, Field(ge=1)]
    original_max_seq_len: Count
    beta_fast: Annotated[float, Field(gt=0)] = 32.0
    beta_slow: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _slow_is_below_fast(self) -> YarnRope:
        if self.beta_slow >= self.beta_fast:
            raise ValueError("beta_slow must be smaller than beta_fast")
        return self


RopeScaling = Annotated[LinearRope | Llama3Rope | YarnRope, Field(discriminator="kind")]
"""How a model reads further than it was first trained to."""


class MicroLMConfig(Frozen):
    """Widths and counts of a decoder-only transformer."""

    vocab_size: Count
    d_model: Count
    n_layers: Count
    n_heads: Count
    n_kv_heads: Count
    """Heads of keys and values; each serves `n_heads / n_kv_heads` query heads."""
    d_head: Annotated[int, Field(ge=2, multiple_of=2)]
    d_ff: Count
    max_seq_len: Count = 2048
    rope_theta: Annotated[float, Field(gt=1)] = 10_000.0
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    qk_norm: bool = True
    tie_embeddings: bool = True
    rope_scaling: RopeScaling | None = None

    @model_validator(mode="after")
    def _heads_divide(self) -> MicroLMConfig:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.n_kv_heads})"
            )
        return self

    def to_stored(self) -> dict[str, Any]:
        """What stands in a stored `config.json`: without rope scaling as before there was any."""
        return self.model_dump(exclude_none=True)

    @property
    def block_matrices(self) -> list[tuple[int, int]]:
        """Rows and columns of a block's matrices: q, k, v, out, gate, up, down."""
        d, q, r = self.d_model, self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        return [(q, d), (r, d), (r, d), (d, q), (self.d_ff, d), (self.d_ff, d), (d, self.d_ff)]

    @property
    def n_block_parameters(self) -> int:
        """Parameters of one transformer block."""
        matrices = sum(rows * columns for rows, columns in self.block_matrices)
        norms = 2 * self.d_model + (2 * self.d_head if self.qk_norm else 0)
        return matrices + norms

    @property
    def n_parameters(self) -> int:
        """Parameters of the whole model; tied embeddings count once."""
        embeddings = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return embeddings + self.n_layers * self.n_block_parameters + self.d_model
