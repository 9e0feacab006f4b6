"""A model in a few lines: a double for tests of the engine and of all that stands on it.

What follows depends on every token before it, and on nothing else, so a batching or caching
mistake changes the text. The cache keeps the tokens themselves and checks every position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class FakeConfig:
    """The two facts that an engine asks for."""

    vocab_size: int = 50
    max_seq_len: int = 64


class FakeCache:
    """The tokens of each slot."""

    def __init__(self, n_slots: int) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(n_slots)]


def fake_cache(
    _config: object, n_slots: int, _max_seq_len: int, _dtype: torch.dtype, _device: torch.device
) -> FakeCache:
    """What `Engine(make_cache=...)` wants."""
    return FakeCache(n_slots)


class FakeModel:
    """Logits are a random row chosen by a hash of the slot's whole text."""

    def __init__(self, config: FakeConfig | None = None) -> None:
        self.config = config or FakeConfig()
        self.prefill_sizes: list[int] = []
        self.decode_sizes: list[int] = []

    def prefill(self, ids_T: Tensor, cache: FakeCache, slot: int, position: int) -> Tensor:
        """As `LanguageModel.prefill`."""
        self.prefill_sizes.append(len(ids_T))
        assert len(cache.tokens[slot]) >= position, "a prompt has a gap"
        cache.tokens[slot] = cache.tokens[slot][:position] + ids_T.tolist()
        return self._logits_V(cache.tokens[slot])

    def decode(
        self, ids_B: Tensor, cache: FakeCache, slots_B: Tensor, positions_B: Tensor
    ) -> Tensor:
        """As `LanguageModel.decode`."""
        self.decode_sizes.append(len(ids_B))
        slots = slots_B.tolist()
        assert len(set(slots)) == len(slots), "two rows share a slot"
        rows = zip(ids_B.tolist(), slots, positions_B.tolist(), strict=True)
        for token_id, slot, position in rows:
            assert len(cache.tokens[slot]) == position, "a token was skipped or read twice"
            cache.tokens[slot].append(token_id)
        return torch.stack([self._logits_V(cache.tokens[slot]) for slot in slots])

    def _logits_V(self, tokens: Sequence[int]) -> Tensor:
        generator = torch.Generator().manual_seed(hash(tuple(tokens)) % 2**31)
        return torch.randn(self.config.vocab_size, generator=generator) * 2
