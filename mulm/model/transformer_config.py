"""The shape of the paper's Transformer, and the shapes of its Table 3.

Read by `transformer` and by whoever trains one. The paper is Vaswani et al., 2017, "Attention Is
All You Need"; sections and equations are those of its version 7. Invariant: a config that exists
describes a model that can be built. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from mulm.errors import ConfigError

PAPER_VOCABULARY = 37_000
"""Byte-pair entries shared by source and target, "about 37000" (section 5.1)."""
_COUNTS = ("vocab_size", "d_model", "n_layers", "n_heads", "d_ff", "d_k", "d_v", "max_seq_len")


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Widths and counts of an encoder-decoder Transformer; the defaults are the paper's base model.

    Attributes:
        vocab_size: Entries of the vocabulary that source and target share.
        n_layers: Layers of the encoder, and again of the decoder: N in the paper.
        d_k: Width of one head's queries and keys; 0 becomes d_model / n_heads.
        d_v: Width of one head's values; 0 becomes d_model / n_heads.
        dropout: The chance that a number is dropped, P_drop in the paper.
        max_seq_len: Positions that the table of positional encodings holds.
        pad_id: The token that fills up rows and is never looked at.

    Raises:
        ConfigError: no model has this shape.
    """

    vocab_size: int = PAPER_VOCABULARY
    d_model: int = 512
    n_layers: int = 6
    n_heads: int = 8
    d_ff: int = 2048
    d_k: int = 0
    d_v: int = 0
    dropout: float = 0.1
    max_seq_len: int = 1024
    pad_id: int = 0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        self._check_types()
        self._set_head_widths()
        self._check_values()

    def _check_types(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = (int, float) if field.name in ("dropout", "norm_eps") else (int,)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ConfigError(f"{field.name} {value!r} is no number", hint="give a number")

    def _set_head_widths(self) -> None:
        """Section 3.2.2: d_k = d_v = d_model / h, unless they are given."""
        if self.n_heads < 1 or (self.d_k and self.d_v):
            return
        if self.d_model % self.n_heads:
            raise ConfigError(
                f"d_model {self.d_model} cannot be split into {self.n_heads} equal heads",
                hint=f"use a multiple of {self.n_heads} for d_model, or give d_k and d_v",
            )
        for name in ("d_k", "d_v"):
            width = getattr(self, name) or self.d_model // self.n_heads
            object.__setattr__(self, name, width)

    def _check_values(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} {value} is too small", hint=f"use 1 or more for {name}")
        if self.d_model % 2:
            raise ConfigError(
                f"d_model {self.d_model} is odd, and positions need a sine and a cosine in pairs",
                hint=f"use {self.d_model + 1}",
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout} is no chance", hint="use 0 to below 1")
        if not 0 <= self.pad_id < self.vocab_size:
            raise ConfigError(
                f"pad_id {self.pad_id} is not in the vocabulary of {self.vocab_size}",
                hint=f"use 0 to {self.vocab_size - 1}",
            )
        if self.norm_eps <= 0:
            raise ConfigError(f"norm_eps {self.norm_eps} is too small", hint="use about 1e-5")


def base(**changes: Any) -> TransformerConfig:
    """The base model of Table 3, or a variation of it."""
    return TransformerConfig(**changes)


def big(**changes: Any) -> TransformerConfig:
    """The big model of Table 3, or a variation of it."""
    shape = {"d_model": 1024, "d_ff": 4096, "n_heads": 16, "dropout": 0.3}
    return TransformerConfig(**(shape | changes))
