"""Keys and values in pages, and attention over them in plain PyTorch.

Made by `MicroLM.make_cache`, used by `MicroLM.extend`. Invariants: attention gives what
`MicroLM.forward` gives for the same tokens, up to rounding; with int8 it sees the rounded keys and
values of all tokens, those of the step itself too, so a prompt in pieces is what it is as a whole.
Pages are gathered for each layer; the CPU kernels of `mulm.native` read them in place instead.
Shape letters: L layers, P pages or positions, X tokens of a page, K kv heads, H d_head, T new
tokens of all sequences, B sequences with one new token, N heads, G heads per kv head.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mulm.model.attention import attention_by_torch
from mulm.model.batch import PAGE_TOKENS, Batch
from mulm.model.config import MicroLMConfig

KvDtype = Literal["int8", "bf16"] | None
"""How keys and values are kept: in the model's own type, in bytes with an fp32 scale for each
token and head, or in bf16 beside a model in fp32."""

_KEPT: dict[KvDtype, torch.dtype] = {"int8": torch.int8, "bf16": torch.bfloat16}
_SCALE_BYTES = 4
_LARGEST_CODE = 127
_SMALLEST = 1e-30
"""What the largest number of a head is taken for at least, so that nothing is divided by zero."""


class PagedCache:
    """Memory for the keys and values of `n_pages` pages, which are read in the type `dtype`."""

    def __init__(
        self,
        config: MicroLMConfig,
        n_pages: int,
        dtype: torch.dtype,
        device: torch.device,
        kv_dtype: KvDtype = None,
    ) -> None:
        self.dtype = dtype
        shape_LPXK = (config.n_layers, n_pages, PAGE_TOKENS, config.n_kv_heads)
        kept = _KEPT.get(kv_dtype, dtype)
        self.k_LPXKH, self.v_LPXKH = (
            torch.zeros((*shape_LPXK, config.d_head), dtype=kept, device=device) for _ in range(2)
        )
        # Nothing for each token and head where numbers are kept as they are.
        n_scales = 1 if kv_dtype == "int8" else 0
        self.k_scale_LPXK1, self.v_scale_LPXK1 = (
            torch.zeros((*shape_LPXK, n_scales), dtype=torch.float32, device=device)
            for _ in range(2)
        )

    @property
    def device(self) -> torch.device:
        """Where the memory is."""
        return self.k_LPXKH.device

    @property
    def nbytes(self) -> int:
        """Of all pages."""
        return sum(x.nbytes for x in self._all)

    def write(self, layer: int, place_T: Tensor, k_TKH: Tensor, v_TKH: Tensor) -> None:
        """Put tokens at their places among those of all pages."""
        if self.k_scale_LPXK1.shape[-1]:
            k_TKH, k_scale_TK1 = _rounded(k_TKH)
            v_TKH, v_scale_TK1 = _rounded(v_TKH)
            self.k_scale_LPXK1[layer].flatten(0, 1)[place_T] = k_scale_TK1
            self.v_scale_LPXK1[layer].flatten(0, 1)[place_T] = v_scale_TK1
        kept = self.k_LPXKH.dtype
        self.k_LPXKH[layer].flatten(0, 1)[place_T] = k_TKH.to(kept)
        self.v_LPXKH[layer].flatten(0, 1)[place_T] = v_TKH.to(kept)

    def read(self, layer: int, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (..., X, K, H) of these pages."""
        k, v = self.k_LPXKH[layer][pages], self.v_LPXKH[layer][pages]
        if not self.k_scale_LPXK1.shape[-1]:
            return k.to(self.dtype), v.to(self.dtype)
        k_scale, v_scale = self.k_scale_LPXK1[layer][pages], self.v_scale_LPXK1[layer][pages]
        return (k * k_scale).to(self.dtype), (v * v_scale).to(self.dtype)

    def empty(self, pages: Tensor) -> None:
        """Fill pages with zeros in all layers."""
        for x in self._all:
            x.index_fill_(1, pages, 0)

    @property
    def _all(self) -> tuple[Tensor, ...]:
        return self.k_LPXKH, self.v_LPXKH, self.k_scale_LPXK1, self.v_scale_LPXK1


def _rounded(x_TKH: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, and what they are multiples of: the largest number of a token's head is 127."""
    x_TKH = x_TKH.float()
    scale_TK1 = x_TKH.abs().amax(dim=-1, keepdim=True).clamp_(min=_SMALLEST) / _LARGEST_CODE
    return (x_TKH / scale_TK1).round_().to(torch.int8), scale_TK1


def page_bytes(config: MicroLMConfig, dtype: torch.dtype, kv_dtype: KvDtype = None) -> int:
    """Memory of one page in all layers."""
    n_heads = 2 * config.n_layers * PAGE_TOKENS * config.n_kv_heads
    if kv_dtype == "int8":
        return n_heads * (config.d_head + _SCALE_BYTES)
    return n_heads * config.d_head * _KEPT.get(kv_dtype, dtype).itemsize


class PagedAttention:
    """An `Attend` for the new tokens of a batch: all streams at once, each prompt by itself."""

    def __init__(self, cache: PagedCache, batch: Batch) -> None:
        device = cache.device
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
        self.cache.write(layer, self.place_T, k_BTKH[0], v_BTKH[0])
        mixed_BTNH = torch.empty_like(q_BTNH)
        if len(self.rows_B):
            mixed_BTNH[0, self.rows_B] = self._streams(layer, q_BTNH[0, self.rows_B])
        for prompt in self.prompts:
            rows = slice(prompt.begin, prompt.begin + prompt.n_tokens)
            mixed_BTNH[:, rows] = prompt.attend(
                q_BTNH[:, rows], *self.cache.read(layer, prompt.pages_P)
            )
        return mixed_BTNH

    def _empty(self, begun_P: Tensor) -> None:
        """Empty the pages that this batch begins.

        Tokens that are not there yet count nothing, but nothing times what a broken model left
        there before could be no number, and spoil another sequence.
        """
        if len(begun_P):
            self.cache.empty(begun_P)

    def _streams(self, layer: int, q_BNH: Tensor) -> Tensor:
        k_BKPH, v_BKPH = (
            x.flatten(1, 2).transpose(1, 2) for x in self.cache.read(layer, self.pages_BP)
        )
        # The heads of one kv head are folded into its queries: keys are never repeated.
        q_BKGH = q_BNH.view(len(q_BNH), k_BKPH.shape[1], -1, q_BNH.shape[2])
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
            x.flatten(0, 1)[: self.end].transpose(0, 1)[None] for x in (k_PXKH, v_PXKH)
        )
        mixed_BNTH = attention_by_torch(q_BTNH.transpose(1, 2), k_BKPH, v_BKPH, self.may_see_TP)
        return mixed_BNTH.transpose(1, 2)
