"""Causal attention over whole rows, with or without borders between documents.

Made by `MicroLM.forward` once for all layers. Invariant: all kernels give the same result, up to
rounding, and with documents a packed row gives what its documents give alone.

Which kernel: on CUDA torch's own choice among its exact kernels (flash, cuDNN, efficient), and for
documents FlexAttention: a mask of all pairs of tokens would rule out flash and fill memory. On a
CPU torch's flash kernel is slow backwards, and products of whole tiles are faster; they keep the
weights of all pairs of tokens, so long rows take torch's kernel again.
Shape letters: B rows, T time, N heads, K kv heads, G heads per kv head, H d_head, X = B K,
C queries of a tile, S keys that a tile sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mulm.errors import ConfigError
from mulm.model.config import ATTENTION_TILE_TOKENS, AttentionKernel

if TYPE_CHECKING:
    from mulm.model.flex_attention import DocumentAttention

LONGEST_PLAIN_ROW = 1024
FLEX_BLOCK_TOKENS = 128
"""Of queries and of keys, the kernel's own size; torch has had wrong gradients at cut blocks."""
NARROWEST_FLEX_HEAD = 16
"""FlexAttention multiplies tiles of at least that width."""
WIDEST_FLASH_HEAD = 256
FIRST_FLASH_CARD = (8, 0)
"""Compute capability of the first cards that torch's flash kernel runs on."""


def choose_kernel(
    asked: AttentionKernel, device_type: str, n_tokens: int, d_head: int
) -> tuple[AttentionKernel, str]:
    """The kernel for rows of `n_tokens`, and why; docs/log.md has the measurements.

    Raises:
        ConfigError: FlexAttention was asked for where torch has none.
    """
    is_wide = d_head >= NARROWEST_FLEX_HEAD
    can_flex = device_type == "cuda" and is_wide and n_tokens % FLEX_BLOCK_TOKENS == 0
    if asked == "flex" and not can_flex:
        raise ConfigError(
            f"attention 'flex' does not compute rows of {n_tokens} tokens with heads of width"
            f" {d_head} on {device_type}",
            hint=f"it needs a GPU, rows of whole blocks of {FLEX_BLOCK_TOKENS} tokens and heads of"
            f" width {NARROWEST_FLEX_HEAD}; 'auto' takes what fits",
        )
    if asked != "auto":
        return asked, "as configured"
    if device_type == "cpu" and n_tokens <= LONGEST_PLAIN_ROW:
        return "plain", "the fastest on a CPU, both ways, for rows that are not long"
    return "sdpa", "torch takes the fastest of its kernels"


def document_ids(ids_BT: Tensor, separator_id: int) -> Tensor:
    """The document of each token (B, T), counted from the row's start; a separator begins one."""
    return (ids_BT == separator_id).cumsum(dim=1)


def document_positions(documents_BT: Tensor) -> Tensor:
    """Each token's distance to the first token of its document in the same row, (B, T)."""
    positions_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    is_first_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    is_first_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    starts_BT = torch.where(is_first_BT, positions_T, 0).cummax(dim=1).values
    return positions_T - starts_BT


class RowAttention:
    """An `Attend` in which tokens see themselves and what stands before them.

    With `documents_BT`, non-decreasing along a row, only tokens of the same document.
    """

    def __init__(self, kernel: AttentionKernel, documents_BT: Tensor | None = None) -> None:
        self.kernel, self.documents_BT = kernel, documents_BT
        self._may_see_B1TT: Tensor | None = None
        if documents_BT is not None and kernel == "sdpa":
            same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
            self._may_see_B1TT = same_BTT.tril()[:, None]
        self._apart: DocumentAttention | None = None
        if documents_BT is not None and kernel == "flex":
            # Its import takes half a second and is for GPUs alone.
            from mulm.model.flex_attention import DocumentAttention

            self._apart = DocumentAttention(documents_BT)

    def __call__(self, _layer: int, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        """Mix the values of what each token sees."""
        if self.kernel == "plain":
            apply: Any = _PlainAttention.apply
            mixed_BTNH: Tensor = apply(q_BTNH, k_BTKH, v_BTKH, self.documents_BT)
            return mixed_BTNH
        if self._apart is not None:
            return self._apart(q_BTNH, k_BTKH, v_BTKH)
        return self._by_torch(q_BTNH, k_BTKH, v_BTKH)

    def _by_torch(self, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        mixed_BNTH = attention_by_torch(
            q_BTNH.transpose(1, 2),
            k_BTKH.transpose(1, 2),
            v_BTKH.transpose(1, 2),
            self._may_see_B1TT,
        )
        return mixed_BNTH.transpose(1, 2)


def attention_by_torch(
    q_BNTH: Tensor, k_BKPH: Tensor, v_BKPH: Tensor, may_see: Tensor | None
) -> Tensor:
    """Torch's own choice of an exact kernel; causal where there is no mask.

    Heads of keys and values are repeated only where sharing them would leave no fast kernel.
    """
    n_groups = q_BNTH.shape[1] // k_BKPH.shape[1]
    if n_groups > 1 and not can_share_kv_heads(q_BNTH, may_see is not None):
        k_BKPH, v_BKPH = (x.repeat_interleave(n_groups, dim=1) for x in (k_BKPH, v_BKPH))
    return functional.scaled_dot_product_attention(
        q_BNTH,
        k_BKPH,
        v_BKPH,
        attn_mask=may_see,
        is_causal=may_see is None,
        enable_gqa=q_BNTH.shape[1] != k_BKPH.shape[1],
    )


def can_share_kv_heads(q_BNTH: Tensor, has_mask: bool) -> bool:
    """Whether a fast kernel takes fewer kv heads than heads: on CUDA flash alone is sure to.

    Flash computes half precision without a mask on cards from Ampere on. Its memory-efficient
    neighbour takes the rest, but wants equal heads; torch would fall back to all scores.
    """
    if q_BNTH.device.type != "cuda":
        return True
    is_half = q_BNTH.dtype in (torch.float16, torch.bfloat16)
    is_narrow = q_BNTH.shape[-1] <= WIDEST_FLASH_HEAD
    is_new = torch.cuda.get_device_capability(q_BNTH.device) >= FIRST_FLASH_CARD
    return is_half and is_narrow and is_new and not has_mask


class _PlainAttention(torch.autograd.Function):
    """Softmax of tiles of products, kept for the way back: exact, and all in matrix products."""

    @staticmethod
    def forward(
        ctx: Any, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, documents_BT: Tensor | None
    ) -> Tensor:
        n_kv_heads = k_BTKH.shape[2]
        q_XGTH = _by_kv_head(q_BTNH, n_kv_heads) * q_BTNH.shape[-1] ** -0.5
        k_XTH = _by_kv_head(k_BTKH, n_kv_heads)[:, 0]
        v_XTH = _by_kv_head(v_BTKH, n_kv_heads)[:, 0]
        mixed_BTNH = torch.empty_like(q_BTNH, memory_format=torch.contiguous_format)
        weights = []
        for tile in _tiles(q_BTNH.shape[1], documents_BT):
            q_XCH = _rows(q_XGTH[:, :, tile.queries])
            scores_XCS = q_XCH @ k_XTH[:, tile.keys].mT
            weights_XCS = _softmax(scores_XCS, tile, documents_BT, n_kv_heads)
            mixed_BTNH[:, tile.queries] = _by_row(weights_XCS @ v_XTH[:, tile.keys], q_BTNH, tile)
            weights.append(weights_XCS)
        ctx.save_for_backward(q_XGTH, k_XTH, v_XTH, mixed_BTNH, *weights)
        ctx.documents_BT = documents_BT
        return mixed_BTNH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q_XGTH, k_XTH, v_XTH, mixed_BTNH, *weights = ctx.saved_tensors
        (grad_BTNH,) = grad_outputs
        n_kv_heads = len(k_XTH) // len(grad_BTNH)
        # Sum over keys of weight times its gradient, which softmax subtracts from each.
        shared_XGT1 = _by_kv_head((grad_BTNH * mixed_BTNH).sum(-1, keepdim=True), n_kv_heads)
        grad_XGTH = _by_kv_head(grad_BTNH, n_kv_heads)
        dq_BTNH = torch.empty_like(grad_BTNH, memory_format=torch.contiguous_format)
        dk_XTH, dv_XTH = torch.zeros_like(k_XTH), torch.zeros_like(v_XTH)
        tiles = _tiles(dq_BTNH.shape[1], ctx.documents_BT)
        for tile, weights_XCS in zip(tiles, weights, strict=True):
            grad_XCH, q_XCH = (
                _rows(grad_XGTH[:, :, tile.queries]),
                _rows(q_XGTH[:, :, tile.queries]),
            )
            dv_XTH[:, tile.keys] += weights_XCS.mT @ grad_XCH
            dscores_XCS = grad_XCH @ v_XTH[:, tile.keys].mT
            dscores_XCS.sub_(_rows(shared_XGT1[:, :, tile.queries])).mul_(weights_XCS)
            dk_XTH[:, tile.keys] += dscores_XCS.mT @ q_XCH
            dq_BTNH[:, tile.queries] = _by_row(dscores_XCS @ k_XTH[:, tile.keys], grad_BTNH, tile)
        dq_BTNH *= dq_BTNH.shape[-1] ** -0.5
        return dq_BTNH, _back(dk_XTH, n_kv_heads), _back(dv_XTH, n_kv_heads), None


class _Tile:
    """Consecutive queries and all keys that some of them see."""

    def __init__(self, first_key: int, start: int, end: int) -> None:
        self.queries, self.keys = slice(start, end), slice(first_key, end)


def _tiles(n_tokens: int, documents_BT: Tensor | None) -> Iterator[_Tile]:
    """Keys before the oldest document that a tile's first queries belong to are passed over."""
    for start in range(0, n_tokens, ATTENTION_TILE_TOKENS):
        first_key = 0
        if documents_BT is not None:
            is_seen_T = (documents_BT == documents_BT[:, start : start + 1]).any(dim=0)
            first_key = int(is_seen_T.to(torch.uint8).argmax())
        yield _Tile(first_key, start, min(n_tokens, start + ATTENTION_TILE_TOKENS))


def _softmax(
    scores_XCS: Tensor, tile: _Tile, documents_BT: Tensor | None, n_kv_heads: int
) -> Tensor:
    """Over the keys that each query may see; the others get weight zero. Changes the scores."""
    n_queries = tile.queries.stop - tile.queries.start
    scores_XGCS = scores_XCS.view(len(scores_XCS), -1, n_queries, scores_XCS.shape[2])
    above = scores_XCS.new_ones(n_queries, n_queries, dtype=torch.bool).triu(1)
    scores_XGCS[..., tile.queries.start - tile.keys.start :].masked_fill_(above, float("-inf"))
    if documents_BT is not None:
        is_other_BCS = documents_BT[:, tile.queries, None] != documents_BT[:, None, tile.keys]
        is_other_X1CS = is_other_BCS.repeat_interleave(n_kv_heads, dim=0)[:, None]
        scores_XGCS.masked_fill_(is_other_X1CS, float("-inf"))
    return scores_XCS.softmax(dim=-1)


def _by_kv_head(x_BTNH: Tensor, n_kv_heads: int) -> Tensor:
    """(B, T, N, H) -> (B K, G, T, H)."""
    n_rows, n_tokens, n_heads, width = x_BTNH.shape
    x_BNTH = x_BTNH.transpose(1, 2)
    return x_BNTH.reshape(n_rows * n_kv_heads, n_heads // n_kv_heads, n_tokens, width)


def _rows(x_XGCH: Tensor) -> Tensor:
    """The queries of all heads of a kv head below one another: (X, G C, H)."""
    return x_XGCH.flatten(1, 2)


def _by_row(mixed_XCH: Tensor, like_BTNH: Tensor, tile: _Tile) -> Tensor:
    """(B K, G C, H) -> (B, C, N, H)."""
    n_queries = tile.queries.stop - tile.queries.start
    mixed_BNCH = mixed_XCH.reshape(len(like_BTNH), like_BTNH.shape[2], n_queries, -1)
    return mixed_BNCH.transpose(1, 2)


def _back(x_XTH: Tensor, n_kv_heads: int) -> Tensor:
    """(B K, T, H) -> (B, T, K, H)."""
    return x_XTH.view(-1, n_kv_heads, *x_XTH.shape[1:]).transpose(1, 2)
