"""The shape of a µLM, as stored in its `config.json`.

Read by everything that builds, trains, serves or exports a model; needs no torch.
Invariant: every shape that passes validation can be expressed as a `Qwen3ForCausalLM`
(or, without `qk_norm`, as a `LlamaForCausalLM`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mulm.config import Frozen

Count = Annotated[int, Field(ge=1)]
AttentionKernel = Literal["auto", "plain", "sdpa"]
"""How attention over whole rows is computed; see `mulm.model.attention`."""


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

    @model_validator(mode="after")
    def _heads_divide(self) -> MicroLMConfig:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.n_kv_heads})"
            )
        return self

    @property
    def n_block_parameters(self) -> int:
        """Parameters of one transformer block."""
        attention = 2 * self.d_model * self.d_head * (self.n_heads + self.n_kv_heads)
        norms = 2 * self.d_model + (2 * self.d_head if self.qk_norm else 0)
        return attention + 3 * self.d_model * self.d_ff + norms

    @property
    def n_parameters(self) -> int:
        """Parameters of the whole model; tied embeddings count once."""
        embeddings = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return embeddings + self.n_layers * self.n_block_parameters + self.d_model
