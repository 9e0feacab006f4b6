"""The Transformer of the paper: encoder and decoder, complete, in the paper's order.

The reference from which docs/tutorial-transformer.md derives the µLM, one change at a time. It can
be trained (`mulm.train.objectives.reversal`) and can generate (`mulm.model.transformer_decoding`).
Section and equation numbers are those of Vaswani et al., 2017, "Attention Is All You Need"; every
formula stands beside the line that computes it. Invariants: masks are True where a token may look;
what stands behind a mask changes no number; decoding token by token with a cache gives the
numbers of reading all at once.

    python -m mulm.model.transformer     # a sanity check

Shape letters: B batch, S source tokens, T target tokens, X either of them, P positions, D d_model,
N heads, H d_k, U d_v, F d_ff, V vocabulary.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mulm.errors import ConfigError
from mulm.model.transformer_cache import DecoderCache, LayerCache
from mulm.model.transformer_config import TransformerConfig
from mulm.model.transformer_input import check_batch, check_ids, check_mask, check_rows

__all__ = [
    "DecoderLayer", "EncoderLayer", "MultiHeadAttention", "PositionWiseFeedForward", "Transformer",
    "TransformerConfig", "create_look_ahead_mask", "create_padding_mask", "positional_encoding",
]  # fmt: skip
Mask = Tensor | None


def positional_encoding(n_positions: int, d_model: int) -> Tensor:
    """The sines and cosines that tell positions apart (P, D), fp32; section 3.5.

    Raises:
        ConfigError: `d_model` is odd: dimensions come in pairs.
    """
    if n_positions < 1 or d_model < 2 or d_model % 2:
        raise ConfigError(
            f"no positional encoding of {n_positions} positions and width {d_model}",
            hint="use an even width and at least one position",
        )
    pos_P1 = torch.arange(n_positions, dtype=torch.float32)[:, None]
    two_i = torch.arange(0, d_model, 2, dtype=torch.float32)
    angle = pos_P1 / 10_000 ** (two_i / d_model)
    encoding_PD = torch.empty(n_positions, d_model)
    encoding_PD[:, 0::2] = angle.sin()  # PE(pos, 2i)   = sin(pos / 10000^(2i / d_model))
    encoding_PD[:, 1::2] = angle.cos()  # PE(pos, 2i+1) = cos(pos / 10000^(2i / d_model))
    return encoding_PD


def create_padding_mask(ids_BX: Tensor, pad_id: int = 0) -> Tensor:
    """True where a token is no padding, (B, 1, 1, X): for all heads and queries."""
    check_batch(ids_BX)
    return (ids_BX != pad_id)[:, None, None, :]


def create_look_ahead_mask(n_tokens: int, device: torch.device | str = "cpu") -> Tensor:
    """True where the query's position (row) is not before the key's (column), (T, T).

    Section 3.1: what is predicted at a position depends only on what stands before it.
    """
    return torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=device).tril()


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each in a subspace of its own; section 3.2."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads, self.d_k = config.n_heads, config.d_k
        self.query = nn.Linear(config.d_model, config.n_heads * config.d_k, bias=False)  # W^Q
        self.key = nn.Linear(config.d_model, config.n_heads * config.d_k, bias=False)  # W^K
        self.value = nn.Linear(config.d_model, config.n_heads * config.d_v, bias=False)  # W^V
        self.out = nn.Linear(config.n_heads * config.d_v, config.d_model, bias=False)  # W^O

    def forward(self, x_BTD: Tensor, source_BSD: Tensor, mask: Tensor) -> Tensor:
        """What tokens of `x_BTD` learn from `source_BSD`; `mask` broadcasts to (B, N, T, S)."""
        return self.attend(x_BTD, *self.keys_values(source_BSD), mask)

    def keys_values(self, source_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """k_BNSH and v_BNSU of the tokens that are looked at."""
        return self._split(self.key(source_BSD)), self._split(self.value(source_BSD))

    def attend(self, x_BTD: Tensor, k_BNSH: Tensor, v_BNSU: Tensor, mask: Tensor) -> Tensor:
        """Queries of `x_BTD` over keys and values that are there already; (B, T, D)."""
        q_BNTH = self._split(self.query(x_BTD))
        # Equation 1: Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V. The lowest number, and not
        # minus infinity, hides: a row of nothing but padding then gives numbers, if useless ones.
        scores_BNTS = q_BNTH @ k_BNSH.mT / math.sqrt(self.d_k)
        scores_BNTS = scores_BNTS.masked_fill(~mask, torch.finfo(scores_BNTS.dtype).min)
        heads_BNTU = scores_BNTS.softmax(dim=-1) @ v_BNSU
        # Section 3.2.2: MultiHead(Q, K, V) = Concat(head_1, ..., head_h) W^O
        mixed_BTD: Tensor = self.out(heads_BNTU.transpose(1, 2).flatten(-2))
        return mixed_BTD

    def _split(self, x_BXE: Tensor) -> Tensor:
        """(B, X, N * width) to (B, N, X, width)."""
        return x_BXE.view(*x_BXE.shape[:2], self.n_heads, -1).transpose(1, 2)


class PositionWiseFeedForward(nn.Module):
    """Two linear maps with a ReLU between, the same for each token; section 3.3."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff)
        self.down = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x_BXD: Tensor) -> Tensor:
        """Change each token by itself."""
        changed_BXD: Tensor = self.down(self.up(x_BXD).relu())  # equation 2: max(0, xW1+b1)W2+b2
        return changed_BXD


class _SubLayer(nn.Module):
    """What stands around each part of a layer: dropout, residual, norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.d_model, config.norm_eps)

    def forward(self, x_BXD: Tensor, changed_BXD: Tensor) -> Tensor:
        # Sections 3.1 and 5.4: LayerNorm(x + Dropout(Sublayer(x)))
        normed_BXD: Tensor = self.norm(x_BXD + self.dropout(changed_BXD))
        return normed_BXD


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward; section 3.1."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.attention_end = _SubLayer(config)
        self.feed_forward = PositionWiseFeedForward(config)
        self.feed_forward_end = _SubLayer(config)

    def forward(self, x_BXD: Tensor, mask: Tensor) -> Tensor:
        """One layer; `mask` broadcasts to (B, N, X, X)."""
        x_BXD = self.attention_end(x_BXD, self.attention(x_BXD, x_BXD, mask))
        ended_BXD: Tensor = self.feed_forward_end(x_BXD, self.feed_forward(x_BXD))
        return ended_BXD


class DecoderLayer(nn.Module):
    """Masked self-attention, attention over the encoder's output, feed-forward; section 3.1."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config)
        self.attention_end = _SubLayer(config)
        self.source_attention = MultiHeadAttention(config)
        self.source_attention_end = _SubLayer(config)
        self.feed_forward = PositionWiseFeedForward(config)
        self.feed_forward_end = _SubLayer(config)

    def forward(
        self, x_BTD: Tensor, memory_BSD: Tensor, target_mask: Tensor, source_mask: Tensor
    ) -> Tensor:
        """One layer over all target tokens; masks broadcast to (B, N, T, T) and (B, N, T, S)."""
        return self.decode(x_BTD, self.begin(memory_BSD), target_mask, source_mask)

    def begin(self, memory_BSD: Tensor) -> LayerCache:
        """What this layer keeps of the encoder's output, and no target token yet."""
        return LayerCache(*self.source_attention.keys_values(memory_BSD))

    def decode(
        self, x_BTD: Tensor, cache: LayerCache, target_mask: Tensor, source_mask: Tensor
    ) -> Tensor:
        """One layer over the target tokens that follow those in `cache`, which takes them in."""
        k_BNTH, v_BNTU = cache.append(*self.attention.keys_values(x_BTD))
        x_BTD = self.attention_end(x_BTD, self.attention.attend(x_BTD, k_BNTH, v_BNTU, target_mask))
        found_BTD = self.source_attention.attend(x_BTD, cache.k_BNSH, cache.v_BNSU, source_mask)
        x_BTD = self.source_attention_end(x_BTD, found_BTD)
        ended_BTD: Tensor = self.feed_forward_end(x_BTD, self.feed_forward(x_BTD))
        return ended_BTD


class Transformer(nn.Module):
    """Encoder, decoder and the one matrix that is both embeddings and the output's weights."""

    positions: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.n_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_layers))
        table_PD = positional_encoding(config.max_seq_len, config.d_model)
        self.register_buffer("positions", table_PD, persistent=False)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> Transformer:
        """Fresh weights: Glorot's, for the paper names none. Scaled embeddings have deviation 1."""
        for name, parameter in self.named_parameters():
            if name == "embedding.weight":
                parameter.normal_(0.0, self.config.d_model**-0.5, generator=generator)
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        return self

    def forward(
        self,
        source_BS: Tensor,
        target_BT: Tensor,
        source_mask: Mask = None,
        target_mask: Mask = None,
    ) -> Tensor:
        """Logits (B, T, V) of the token that follows each target token.

        Masks are True where a token may look and broadcast to (B, N, S or T, S) and (B, N, T, T).
        Without them padding is hidden, and from target tokens what comes after them.

        Raises:
            ConfigError: ids or masks have impossible shapes, or ids are not in the vocabulary.
        """
        if source_mask is None:
            source_mask = create_padding_mask(source_BS, self.config.pad_id)
        return self.decode(target_BT, self.encode(source_BS, source_mask), source_mask, target_mask)

    def encode(self, source_BS: Tensor, source_mask: Mask = None) -> Tensor:
        """What the encoder makes of the source, (B, S, D)."""
        if source_mask is None:
            source_mask = create_padding_mask(source_BS, self.config.pad_id)
        x_BSD = self._embed(source_BS, 0)
        check_mask(source_mask, x_BSD.shape[:2], x_BSD.shape[1], "source_mask")
        for layer in self.encoder:
            x_BSD = layer(x_BSD, source_mask)
        return x_BSD

    def decode(
        self, target_BT: Tensor, memory_BSD: Tensor, source_mask: Tensor, target_mask: Mask = None
    ) -> Tensor:
        """Logits (B, T, V) after each target token, given the encoder's output."""
        cache = self.begin(memory_BSD, source_mask)
        if target_mask is None:
            causal_TT = create_look_ahead_mask(target_BT.shape[-1], target_BT.device)
            target_mask = causal_TT & create_padding_mask(target_BT, self.config.pad_id)
        return self._decode(target_BT, cache, target_mask)

    def start(self, source_BS: Tensor) -> DecoderCache:
        """Read the source; what `decode_next` needs of it."""
        source_mask = create_padding_mask(source_BS, self.config.pad_id)
        return self.begin(self.encode(source_BS, source_mask), source_mask)

    def begin(self, memory_BSD: Tensor, source_mask: Tensor) -> DecoderCache:
        """A cache for decoding step by step: keys and values of the source, computed once."""
        layers = [layer.begin(memory_BSD) for layer in self._decoder_layers]
        return DecoderCache(layers, source_mask)

    def decode_next(self, target_BT: Tensor, cache: DecoderCache) -> Tensor:
        """Logits (B, T, V) after each of T target tokens that follow those in `cache`.

        The cache takes them in. They must not be padding: a row that has ended has no next token.
        """
        n_before = cache.n_tokens
        causal = create_look_ahead_mask(n_before + target_BT.shape[-1], target_BT.device)
        return self._decode(target_BT, cache, causal[n_before:])

    def _decode(self, target_BT: Tensor, cache: DecoderCache, target_mask: Tensor) -> Tensor:
        x_BTD = self._embed(target_BT, cache.n_tokens)
        check_rows(len(x_BTD), cache.n_rows)
        n_keys = cache.n_tokens + x_BTD.shape[1]
        check_mask(target_mask, x_BTD.shape[:2], n_keys, "target_mask")
        check_mask(cache.source_mask, x_BTD.shape[:2], cache.n_source_tokens, "source_mask")
        for layer, layer_cache in zip(self._decoder_layers, cache.layers, strict=True):
            x_BTD = layer.decode(x_BTD, layer_cache, target_mask, cache.source_mask)
        # Section 3.4: the embeddings again. The softmax is left to the loss and to decoding.
        return functional.linear(x_BTD, self.embedding.weight)

    @property
    def _decoder_layers(self) -> list[DecoderLayer]:
        return cast(list[DecoderLayer], list(self.decoder))

    def _embed(self, ids_BX: Tensor, first: int) -> Tensor:
        check_ids(ids_BX, first, self.config)
        # Section 3.4: embeddings times sqrt(d_model); 3.5: plus the positions; 5.4: then dropout.
        x_BXD = self.embedding(ids_BX) * math.sqrt(self.config.d_model)
        x_BXD = x_BXD + self.positions[first : first + ids_BX.shape[1]]
        dropped_BXD: Tensor = self.embedding_dropout(x_BXD)
        return dropped_BXD


if __name__ == "__main__":
    from mulm.model.transformer_check import main

    main()
