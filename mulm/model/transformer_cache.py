"""What the Transformer's decoder keeps between two steps: keys and values, so none is made twice.

Made by `Transformer.begin`, filled by `decode` and `decode_next`, reordered by beam search.
Invariant: all layers hold the same tokens; what is in a cache is never changed, only added to.
Shape letters: B batch, S source tokens, T target tokens so far, N heads, H d_k, U d_v.
"""

from __future__ import annotations

import torch
from torch import Tensor


class LayerCache:
    """One decoder layer's keys and values: of the source, and of the target tokens so far."""

    def __init__(self, k_BNSH: Tensor, v_BNSU: Tensor) -> None:
        self.k_BNSH, self.v_BNSU = k_BNSH, v_BNSU
        self.k_BNTH, self.v_BNTU = k_BNSH[:, :, :0], v_BNSU[:, :, :0]

    def append(self, k_BNTH: Tensor, v_BNTU: Tensor) -> tuple[Tensor, Tensor]:
        """Add target tokens; returns keys and values of all of them."""
        if self.k_BNTH.shape[2]:
            k_BNTH = torch.cat([self.k_BNTH, k_BNTH], dim=2)
            v_BNTU = torch.cat([self.v_BNTU, v_BNTU], dim=2)
        self.k_BNTH, self.v_BNTU = k_BNTH, v_BNTU
        return k_BNTH, v_BNTU

    def select(self, rows_B: Tensor) -> LayerCache:
        """A cache whose row i is row `rows_B[i]` of this one."""
        chosen = LayerCache(self.k_BNSH[rows_B], self.v_BNSU[rows_B])
        chosen.k_BNTH, chosen.v_BNTU = self.k_BNTH[rows_B], self.v_BNTU[rows_B]
        return chosen


class DecoderCache:
    """The caches of all layers, and which source tokens may be looked at."""

    def __init__(self, layers: list[LayerCache], source_mask: Tensor) -> None:
        self.layers, self.source_mask = layers, source_mask

    @property
    def n_rows(self) -> int:
        """Sequences that are being decoded."""
        return int(self.layers[0].k_BNSH.shape[0])

    @property
    def n_tokens(self) -> int:
        """Target tokens so far."""
        return int(self.layers[0].k_BNTH.shape[2])

    @property
    def n_source_tokens(self) -> int:
        """Source tokens, with padding."""
        return int(self.layers[0].k_BNSH.shape[2])

    def select(self, rows_B: Tensor) -> DecoderCache:
        """A cache whose row i is row `rows_B[i]` of this one; rows may repeat or be left out."""
        has_rows = self.source_mask.ndim == 4 and self.source_mask.shape[0] == self.n_rows
        mask = self.source_mask[rows_B] if has_rows else self.source_mask
        return DecoderCache([layer.select(rows_B) for layer in self.layers], mask)
