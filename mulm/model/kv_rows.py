"""Attention over pages for tokens that are a row each: work of a shape that is known before.

Used by `MicroLM.read_rows`. Unlike `mulm.model.kv_cache.PagedAttention` nothing here asks the host
what a tensor holds, so a device can do the same work again from other contents of the same buffers,
as a CUDA graph does. Invariants: what a row gives is what `PagedAttention` gives, up to rounding;
with `is_invariant` it is also the same bits in any table of pages that is wide enough.
Shape letters: B rows, P pages of one or the positions in them, W positions of a piece, N heads,
K kv heads, G heads per kv head, H d_head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mulm.model.batch import PAGE_TOKENS, PIECE_PAGES, Rows
from mulm.model.kv_cache import PagedCache


class RowsAttention:
    """An `Attend` of one new token in each row; rows of one sequence see each other's tokens."""

    def __init__(self, cache: PagedCache, rows: Rows) -> None:
        at_B, pages_BP = rows.positions_B.long(), rows.pages_BP.long()
        n_pages, device = pages_BP.shape[1], pages_BP.device
        number_B1 = (at_B // PAGE_TOKENS)[:, None]
        page_B = pages_BP.gather(1, number_B1)[:, 0]
        self._cache, self._is_invariant = cache, rows.is_invariant
        self._place_B = page_B * PAGE_TOKENS + at_B % PAGE_TOKENS
        # As `PagedAttention` does; a row that begins no page empties the one that nobody reads.
        begun_B = page_B.masked_fill(at_B % PAGE_TOKENS != 0, rows.spare_page)
        cache.empty(begun_B)
        # Beyond its own pages a row sees its first one again, and not in fact.
        held_BP = torch.arange(n_pages, device=device) <= number_B1
        self._pages_BP = torch.where(held_BP, pages_BP, pages_BP[:, :1])
        seen_P = torch.arange(n_pages * PAGE_TOKENS, device=device)
        self._may_see_B11P = (seen_P <= at_B[:, None])[:, None, None]

    def __call__(self, layer: int, q_1BNH: Tensor, k_1BKH: Tensor, v_1BKH: Tensor) -> Tensor:
        """Store k and v, attend to all that stands before."""
        self._cache.write(layer, self._place_B, k_1BKH[0], v_1BKH[0])
        # The heads of one kv head are folded into its queries: keys are never repeated.
        q_BNH, n_kv_heads = q_1BNH[0], k_1BKH.shape[2]
        q_BKGH = q_BNH.view(len(q_BNH), n_kv_heads, -1, q_BNH.shape[2])
        mix = self._in_pieces if self._is_invariant else self._at_once
        return mix(layer, q_BKGH).flatten(1, 2)[None]

    def _at_once(self, layer: int, q_BKGH: Tensor) -> Tensor:
        k_BKPH, v_BKPH = self._gathered(layer, self._pages_BP)
        return functional.scaled_dot_product_attention(
            q_BKGH, k_BKPH, v_BKPH, attn_mask=self._may_see_B11P
        )

    def _in_pieces(self, layer: int, q_BKGH: Tensor) -> Tensor:
        """In fp32, piece after piece of the same size (Milakov and Gimelshein, 2018).

        A piece that a row does not see leaves its sums as they are, to the bit: it adds zero and
        scales by one. So it does not matter how many such pieces follow.
        """
        query_BKGH = q_BKGH.float() * q_BKGH.shape[-1] ** -0.5
        largest_BKG1 = total_BKG1 = mixed_BKGH = None
        for begin in range(0, self._pages_BP.shape[1], PIECE_PAGES):
            pages_BP = self._pages_BP[:, begin : begin + PIECE_PAGES]
            k_BKWH, v_BKWH = (x.float() for x in self._gathered(layer, pages_BP))
            first, end = begin * PAGE_TOKENS, (begin + PIECE_PAGES) * PAGE_TOKENS
            scores_BKGW = query_BKGH @ k_BKWH.transpose(-1, -2)
            scores_BKGW.masked_fill_(~self._may_see_B11P[..., first:end], float("-inf"))
            here_BKG1 = scores_BKGW.amax(-1, keepdim=True)
            if largest_BKG1 is None or total_BKG1 is None or mixed_BKGH is None:
                largest_BKG1 = here_BKG1  # finite: every row sees the first position
                weights_BKGW = (scores_BKGW - largest_BKG1).exp_()
                total_BKG1, mixed_BKGH = weights_BKGW.sum(-1, keepdim=True), weights_BKGW @ v_BKWH
                continue
            before_BKG1, largest_BKG1 = largest_BKG1, torch.maximum(largest_BKG1, here_BKG1)
            kept_BKG1 = (before_BKG1 - largest_BKG1).exp_()
            weights_BKGW = (scores_BKGW - largest_BKG1).exp_()
            total_BKG1 = total_BKG1 * kept_BKG1 + weights_BKGW.sum(-1, keepdim=True)
            mixed_BKGH = mixed_BKGH * kept_BKG1 + weights_BKGW @ v_BKWH
        assert mixed_BKGH is not None, "a table without pages"
        mixed_BKGH /= total_BKG1
        result_BKGH: Tensor = mixed_BKGH.to(q_BKGH.dtype)
        return result_BKGH

    def _gathered(self, layer: int, pages_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K, positions, H)."""
        k_BPXKH, v_BPXKH = self._cache.read(layer, pages_BP)
        return k_BPXKH.flatten(1, 2).transpose(1, 2), v_BPXKH.flatten(1, 2).transpose(1, 2)
