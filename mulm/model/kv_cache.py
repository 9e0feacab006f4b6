"""Keys and values in pages, and attention over them in plain PyTorch.

Made by `MicroLM.make_cache`, used by `MicroLM.extend`. Invariant: attention gives what
`MicroLM.forward` gives for the same tokens, up to rounding. Pages are gathered for each layer; the
CPU kernels of `mulm.native` read them in place instead.
Shape letters: L layers, P pages or positions, X tokens of a page, K kv heads, H d_head, T new
tokens of all sequences, B sequences with one new token, N heads, G heads per kv head.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from mulm.model.attention import attention_by_torch
from mulm.model.batch import PAGE_TOKENS, Batch
from mulm.model.config import MicroLMConfig


class PagedCache:
    """Memory for the keys and values of `n_pages` pages."""

    def __init__(
        self, config: MicroLMConfig, n_pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.n_layers, n_pages, PAGE_TOKENS, config.n_kv_heads, config.d_head)
        self.k_LPXKH = torch.zeros(shape, dtype=dtype, device=device)
        self.v_LPXKH = torch.zeros(shape, dtype=dtype, device=device)


def page_bytes(config: MicroLMConfig, dtype: torch.dtype) -> int:
    """Memory of one page in all layers."""
    n_numbers = 2 * config.n_layers * PAGE_TOKENS * config.n_kv_heads * config.d_head
    return n_numbers * dtype.itemsize


class PagedAttention:
    """An `Attend` for the new tokens of a batch: all streams at once, each prompt by itself."""

    def __init__(self, cache: PagedCache, batch: Batch) -> None:
        device = cache.k_LPXKH.device
        begins, positions = batch.begins_S1.tolist(), batch.positions_T.tolist()
        sizes = [end - begin for begin, end in pairwise(begins)]
        self.cache = cache
        owner_T = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        at_T = batch.positions_T.long()
        page_T = batch.pages_SP.long()[owner_T, at_T // PAGE_TOKENS]
        self.place_T = (page_T * PAGE_TOKENS + at_T % PAGE_TOKENS).to(device)
        self._empty(page_T[at_T % PAGE_TOKENS == 0].to(device))
        single = [s for s, size in enumerate(sizes) if size == 1]
        self.rows_B = torch.tensor([begins[s] for s in single], device=device)
        if single:
            last_B = batch.positions_T[[begins[s] for s in single]]
            n_pages = int(last_B.max()) // PAGE_TOKENS + 1
            held_BP = torch.arange(n_pages) <= (last_B // PAGE_TOKENS)[:, None]
            pages_BP = batch.pages_SP[single, :n_pages].long()
            # Where others have more pages a sequence sees its own first one again, and not in fact.
            self.pages_BP = torch.where(held_BP, pages_BP, pages_BP[:, :1]).to(device)
            seen_P = torch.arange(n_pages * PAGE_TOKENS)
            self.may_see_B11P = (seen_P <= last_B[:, None])[:, None, None].to(device)
        self.prompts = [
            _Prompt(begins[s], sizes[s], positions[begins[s]], batch.pages_SP[s].long().to(device))
            for s in range(len(sizes))
            if sizes[s] > 1
        ]

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        """Store k and v, attend to all that stands before; B is 1."""
        k_PXKH, v_PXKH = self.cache.k_LPXKH[layer], self.cache.v_LPXKH[layer]
        k_PXKH.flatten(0, 1)[self.place_T] = k_BTKH[0]
        v_PXKH.flatten(0, 1)[self.place_T] = v_BTKH[0]
        mixed_BTNH = torch.empty_like(q_BTNH)
        if len(self.rows_B):
            mixed_BTNH[0, self.rows_B] = self._streams(q_BTNH[0, self.rows_B], k_PXKH, v_PXKH)
        for prompt in self.prompts:
            rows = slice(prompt.begin, prompt.begin + prompt.n_tokens)
            mixed_BTNH[:, rows] = prompt.attend(q_BTNH[:, rows], k_PXKH, v_PXKH)
        return mixed_BTNH

    def _empty(self, begun_P: Tensor) -> None:
        """Empty the pages that this batch begins.

        Tokens that are not there yet count nothing, but nothing times what a broken model left
        there before could be no number, and spoil another sequence.
        """
        if len(begun_P):
            self.cache.k_LPXKH[:, begun_P] = 0
            self.cache.v_LPXKH[:, begun_P] = 0

    def _streams(self, q_BNH: Tensor, k_PXKH: Tensor, v_PXKH: Tensor) -> Tensor:
        k_BKPH, v_BKPH = (x[self.pages_BP].flatten(1, 2).transpose(1, 2) for x in (k_PXKH, v_PXKH))
        # The heads of one kv head are folded into its queries: keys are never repeated.
        q_BKGH = q_BNH.view(len(q_BNH), k_PXKH.shape[2], -1, q_BNH.shape[2])
        mixed_BKGH = functional.scaled_dot_product_attention(
            q_BKGH, k_BKPH, v_BKPH, attn_mask=self.may_see_B11P
        )
        return mixed_BKGH.flatten(1, 2)


class _Prompt:
    """Several new tokens of one sequence."""

    def __init__(self, begin: int, n_tokens: int, position: int, pages_P: Tensor) -> None:
        self.begin, self.n_tokens = begin, n_tokens
        self.end = position + n_tokens
        self.pages_P = pages_P[: -(-self.end // PAGE_TOKENS)]
        self.may_see_TP: Tensor | None = None
        if position:
            seen_P = torch.arange(self.end, device=pages_P.device)
            self.may_see_TP = seen_P <= seen_P[position:, None]

    def attend(self, q_BTNH: Tensor, k_PXKH: Tensor, v_PXKH: Tensor) -> Tensor:
        k_BKPH, v_BKPH = (
            x[self.pages_P].flatten(0, 1)[: self.end].transpose(0, 1)[None]
            for x in (k_PXKH, v_PXKH)
        )
        mixed_BNTH = attention_by_torch(q_BTNH.transpose(1, 2), k_BKPH, v_BKPH, self.may_see_TP)
        return mixed_BNTH.transpose(1, 2)
