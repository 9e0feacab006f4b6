"""Decoder-only language models between the paper's Transformer and the µLM: one switch per change.

Used by `benchmarks.transformer_to_microlm`. With no switch it is the paper's encoder layers under a
look-ahead mask; with all of them it is `MicroLM`, names of weights included. Both ends are pinned
by tests. Shape letters: B rows, T tokens, D d_model, N heads, K kv heads, H d_head, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mulm.model.attention import RowAttention
from mulm.model.config import MicroLMConfig
from mulm.model.layers import RMSNorm, SwiGLU, rotary_tables, rotate
from mulm.model.microlm import EMBEDDING_STD
from mulm.model.transformer import PositionWiseFeedForward, TransformerConfig, positional_encoding


@dataclass(frozen=True, slots=True)
class Switches:
    """Which of the changes are made; the order is that of the tutorial."""

    pre_norm: bool = False
    rms_norm: bool = False
    rotary: bool = False
    grouped_queries: bool = False
    qk_norm: bool = False
    swiglu: bool = False
    plain_embeddings: bool = False
    zero_branches: bool = False
    untied: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """The widths that all variants share; `d_gate` makes SwiGLU as large as `d_ff` the ReLU."""

    vocab_size: int = 256
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    d_ff: int = 256
    d_gate: int = 170
    max_seq_len: int = 64

    def transformer(self) -> TransformerConfig:
        """As the paper's shape; without dropout, for no text is read twice."""
        return TransformerConfig(
            vocab_size=self.vocab_size, d_model=self.d_model, n_layers=self.n_layers,
            n_heads=self.n_heads, d_ff=self.d_ff, dropout=0.0, max_seq_len=self.max_seq_len,
            norm_eps=1e-6,
        )  # fmt: skip

    def microlm(self, switches: Switches) -> MicroLMConfig:
        """As the µLM's shape."""
        return MicroLMConfig(
            vocab_size=self.vocab_size, d_model=self.d_model, n_layers=self.n_layers,
            n_heads=self.n_heads, n_kv_heads=self.n_heads // (2 if switches.grouped_queries else 1),
            d_head=self.d_model // self.n_heads, d_ff=self.d_gate, max_seq_len=self.max_seq_len,
            qk_norm=switches.qk_norm, tie_embeddings=not switches.untied,
        )  # fmt: skip


class VariantAttention(nn.Module):
    """Causal self-attention with or without rotary positions, shared keys, and QK-norm."""

    def __init__(self, config: MicroLMConfig, switches: Switches) -> None:
        super().__init__()
        self.d_head, self.is_rotary = config.d_head, switches.rotary
        self.q = nn.Linear(config.d_model, config.n_heads * config.d_head, bias=False)
        self.k = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=False)
        self.v = nn.Linear(config.d_model, config.n_kv_heads * config.d_head, bias=False)
        self.out = nn.Linear(config.n_heads * config.d_head, config.d_model, bias=False)
        make_norm = RMSNorm if switches.qk_norm else nn.Identity
        self.q_norm = make_norm(config.d_head, config.norm_eps)
        self.k_norm = make_norm(config.d_head, config.norm_eps)

    def forward(self, x_BTD: Tensor, cos_BTH: Tensor, sin_BTH: Tensor) -> Tensor:
        """Mix each token with those before it."""
        n_rows, n_tokens, _ = x_BTD.shape
        q_BTNH = self.q_norm(self.q(x_BTD).view(n_rows, n_tokens, -1, self.d_head))
        k_BTKH = self.k_norm(self.k(x_BTD).view(n_rows, n_tokens, -1, self.d_head))
        v_BTKH = self.v(x_BTD).view(n_rows, n_tokens, -1, self.d_head)
        if self.is_rotary:
            q_BTNH, k_BTKH = rotate(q_BTNH, cos_BTH, sin_BTH), rotate(k_BTKH, cos_BTH, sin_BTH)
        mixed: Tensor = self.out(RowAttention("sdpa")(0, q_BTNH, k_BTKH, v_BTKH).flatten(-2))
        return mixed


class VariantBlock(nn.Module):
    """Attention and feed-forward, with norms behind (the paper) or before them."""

    def __init__(self, size: Size, switches: Switches) -> None:
        super().__init__()
        config = size.microlm(switches)
        make_norm = RMSNorm if switches.rms_norm else nn.LayerNorm
        self.is_pre_norm = switches.pre_norm
        self.attention_norm = make_norm(config.d_model, config.norm_eps)
        self.attention = VariantAttention(config, switches)
        self.mlp_norm = make_norm(config.d_model, config.norm_eps)
        self.mlp = (
            SwiGLU(config) if switches.swiglu else PositionWiseFeedForward(size.transformer())
        )

    def forward(self, x_BTD: Tensor, cos_BTH: Tensor, sin_BTH: Tensor) -> Tensor:
        """One layer."""
        if self.is_pre_norm:
            x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), cos_BTH, sin_BTH)
            before: Tensor = x_BTD + self.mlp(self.mlp_norm(x_BTD))
            return before
        x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD, cos_BTH, sin_BTH))
        behind: Tensor = self.mlp_norm(x_BTD + self.mlp(x_BTD))
        return behind


class DecoderVariant(nn.Module):
    """A language model with the interface of `MicroLM` that training needs."""

    positions: Tensor
    rotary_cos: Tensor
    rotary_sin: Tensor

    def __init__(self, size: Size, switches: Switches) -> None:
        super().__init__()
        self.size, self.switches = size, switches
        self.embedding = nn.Embedding(size.vocab_size, size.d_model)
        self.blocks = nn.ModuleList(VariantBlock(size, switches) for _ in range(size.n_layers))
        make_norm = RMSNorm if switches.rms_norm else nn.LayerNorm
        self.norm = make_norm(size.d_model, 1e-6) if switches.pre_norm else nn.Identity()
        if switches.untied:
            self.unembedding = nn.Linear(size.d_model, size.vocab_size, bias=False)
        cos, sin = rotary_tables(size.microlm(switches))
        table = positional_encoding(size.max_seq_len, size.d_model)
        for name, tensor in (("rotary_cos", cos), ("rotary_sin", sin), ("positions", table)):
            self.register_buffer(name, tensor, persistent=False)

    @property
    def output_weight_VD(self) -> Tensor:
        """The matrix that turns hidden states into logits."""
        return self.unembedding.weight if self.switches.untied else self.embedding.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> DecoderVariant:
        """Fresh weights, as `Transformer` or `MicroLM` begins, by the switches."""
        for name, parameter in self.named_parameters():
            if name.endswith("embedding.weight"):
                small = self.switches.plain_embeddings
                deviation = EMBEDDING_STD if small else self.size.d_model**-0.5
                parameter.normal_(0.0, deviation, generator=generator)
            elif name.endswith(("out.weight", "down.weight")) and self.switches.zero_branches:
                parameter.zero_()
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        return self

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Hidden states (B, T, D)."""
        n_tokens = ids_BT.shape[1]
        x_BTD = self.embedding(ids_BT)
        if not self.switches.plain_embeddings:
            x_BTD = x_BTD * math.sqrt(self.size.d_model)
        if not self.switches.rotary:
            x_BTD = x_BTD + self.positions[:n_tokens]
        cos_BTH, sin_BTH = self.rotary_cos[None, :n_tokens], self.rotary_sin[None, :n_tokens]
        for block in self.blocks:
            x_BTD = block(x_BTD, cos_BTH, sin_BTH)
        hidden_BTD: Tensor = self.norm(x_BTD)
        return hidden_BTD
