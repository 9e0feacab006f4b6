"""Attention inside documents by FlexAttention, which needs no mask of all pairs of tokens.

Called by `mulm.model.attention` for packed rows on a GPU. Invariant: blocks and the mask inside
them say "the same document, and not after it"; a block in which every pair is seen is never masked,
one in which none is seen is never read.
Shape letters: B rows, T time, N heads, K kv heads, H d_head, M blocks.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from mulm.model.attention import FLEX_BLOCK_TOKENS


class DocumentAttention:
    """Mixes values within documents; the blocks are found once, for all layers."""

    def __init__(self, documents_BT: Tensor) -> None:
        self._blocks = document_blocks(documents_BT)

    def __call__(self, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        """(B, T, N, H) of what each token sees."""
        mixed_BNTH: Tensor = compiled()(
            q_BTNH.transpose(1, 2),
            k_BTKH.transpose(1, 2),
            v_BTKH.transpose(1, 2),
            block_mask=self._blocks,
            enable_gqa=q_BTNH.shape[2] != k_BTKH.shape[2],
        )
        return mixed_BNTH.transpose(1, 2)


@cache
def compiled() -> Any:
    """One kernel, compiled once per process; uncompiled it would make all scores."""
    return torch.compile(flex_attention)


def document_blocks(documents_BT: Tensor) -> BlockMask:
    """The blocks of rows whose documents are numbered, non-decreasing along each row."""
    n_tokens = documents_BT.shape[1]
    first_BM = documents_BT[:, ::FLEX_BLOCK_TOKENS]
    ends_M = torch.arange(FLEX_BLOCK_TOKENS, n_tokens + FLEX_BLOCK_TOKENS, FLEX_BLOCK_TOKENS)
    last_BM = documents_BT[:, (ends_M.clamp(max=n_tokens) - 1).to(documents_BT.device)]
    n_blocks = first_BM.shape[1]
    before_MM = torch.ones(n_blocks, n_blocks, dtype=torch.bool, device=first_BM.device).tril(-1)
    # Numbers never fall, so blocks share a document where one's last is the other's first.
    shares_BMM = (first_BM[:, :, None] == last_BM[:, None, :]) & before_MM
    is_one_BMM = (last_BM[:, :, None] == first_BM[:, None, :]) & before_MM
    # A block that the row's end cuts short is not whole.
    is_one_BMM[:, n_tokens // FLEX_BLOCK_TOKENS :] = False
    is_partly_BMM = (shares_BMM & ~is_one_BMM) | torch.eye(n_blocks, device=first_BM.device).bool()

    def may_see(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (documents_BT[row, query] == documents_BT[row, key])

    return BlockMask.from_kv_blocks(
        *_listed(is_partly_BMM),
        *_listed(is_one_BMM),
        BLOCK_SIZE=FLEX_BLOCK_TOKENS,
        mask_mod=may_see,
        seq_lengths=(n_tokens, n_tokens),
    )


def _listed(is_seen_BMM: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries sees, and which, those first; for all heads."""
    counts_B1M = is_seen_BMM.sum(-1, dtype=torch.int32)[:, None]
    order_B1MM = is_seen_BMM.int().argsort(dim=-1, descending=True, stable=True)[:, None]
    return counts_B1M, order_B1MM.int()
