"""Keys and values of the tokens read so far: one contiguous stretch of memory per slot.

Made by the engine host, filled and read by `MicroLM.prefill` and `MicroLM.decode`; who sits
in which slot is the engine's business. Invariant: what a slot holds beyond a sequence's
position is never read, so slots need no clearing between sequences.
Shape letters: L layers, S slots, K kv heads, P positions, H d_head; B, T, N, G as in layers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mulm.model.attention import attention_by_torch
from mulm.model.config import MicroLMConfig


class KVCache:
    """Memory for `n_slots` sequences of up to `max_seq_len` tokens each."""

    def __init__(
        self,
        config: MicroLMConfig,
        n_slots: int,
        max_seq_len: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if max_seq_len > config.max_seq_len:
            raise ValueError(
                f"a cache of {max_seq_len} positions exceeds the model's {config.max_seq_len}"
            )
        self.n_slots = n_slots
        self.max_seq_len = max_seq_len
        shape = (config.n_layers, n_slots, config.n_kv_heads, max_seq_len, config.d_head)
        self.k_LSKPH = torch.zeros(shape, dtype=dtype, device=device)
        self.v_LSKPH = torch.zeros(shape, dtype=dtype, device=device)


class PrefillAttention:
    """An `Attend` for T new tokens of one sequence, appended at `position` of its slot."""

    def __init__(self, cache: KVCache, slot: int, position: int, n_tokens: int) -> None:
        assert 0 <= slot < cache.n_slots
        assert position >= 0
        assert position + n_tokens <= cache.max_seq_len
        self.cache, self.slot = cache, slot
        self.start, self.end = position, position + n_tokens
        self.may_see_TP: Tensor | None = None
        if position:
            seen = torch.arange(self.end, device=cache.k_LSKPH.device)
            self.may_see_TP = seen[None, :] <= seen[position:, None]

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        """Append k and v, attend to all that stands before."""
        k_KPH = self.cache.k_LSKPH[layer, self.slot, :, : self.end]
        v_KPH = self.cache.v_LSKPH[layer, self.slot, :, : self.end]
        k_KPH[:, self.start :] = k_BTKH[0].transpose(0, 1)
        v_KPH[:, self.start :] = v_BTKH[0].transpose(0, 1)
        mixed_BNTH = attention_by_torch(
            q_BTNH.transpose(1, 2), k_KPH[None], v_KPH[None], self.may_see_TP
        )
        return mixed_BNTH.transpose(1, 2)


class DecodeAttention:
    """An `Attend` for one new token of each of B sequences."""

    def __init__(self, cache: KVCache, slots_B: Tensor, positions_B: Tensor) -> None:
        self.cache, self.slots_B, self.positions_B = cache, slots_B, positions_B
        longest = int(positions_B.max()) + 1
        assert longest <= cache.max_seq_len
        self.end = longest
        self.rows = _as_slice(slots_B)
        seen = torch.arange(longest, device=positions_B.device)
        self.may_see_B11P = (seen[None, :] <= positions_B[:, None])[:, None, None, :]

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor) -> Tensor:
        """Store k and v at each sequence's position, attend up to and including it."""
        k_SKPH, v_SKPH = self.cache.k_LSKPH[layer], self.cache.v_LSKPH[layer]
        k_SKPH[self.slots_B, :, self.positions_B] = k_BTKH[:, 0]
        v_SKPH[self.slots_B, :, self.positions_B] = v_BTKH[:, 0]
        rows = self.slots_B if self.rows is None else self.rows
        # The heads of one kv head are folded into its queries: keys are never repeated.
        q_BKGH = q_BTNH.view(len(q_BTNH), k_BTKH.shape[2], -1, q_BTNH.shape[3])
        mixed_BKGH = functional.scaled_dot_product_attention(
            q_BKGH,
            k_SKPH[rows, :, : self.end],
            v_SKPH[rows, :, : self.end],
            attn_mask=self.may_see_B11P,
        )
        return mixed_BKGH.flatten(1, 2).unsqueeze(1)


def _as_slice(slots_B: Tensor) -> slice | None:
    """Adjacent slots as a slice, which reads the cache in place instead of copying it."""
    slots = slots_B.tolist()
    first = slots[0]
    return (
        slice(first, first + len(slots))
        if slots == list(range(first, first + len(slots)))
        else None
    )
