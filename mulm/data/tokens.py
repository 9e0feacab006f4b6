"""Tokens with a loss mask: what encoding makes of a document, and how it lies in a shard.

Used by `mulm.data.encode` and `mulm.data.pack`; read by `mulm.data.loader`. A shard is
little-endian uint16, or uint32 for more than 65,536 ids. Beside it lies a mask, one bit a token in
little bit order, unless every token is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Ids = np.ndarray[tuple[int], np.dtype[np.uint32]]
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids and, for each, whether it is learned as a target; of one length."""

    ids: Ids
    learned: Mask

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, stretch: slice) -> Tokens:
        return Tokens(self.ids[stretch], self.learned[stretch])

    @classmethod
    def all_learned(cls, ids: Ids) -> Tokens:
        """Plain text: every token is a target."""
        return cls(ids, np.ones(len(ids), np.bool_))

    @classmethod
    def joined(cls, parts: Sequence[Tokens]) -> Tokens:
        """One after another."""
        if not parts:
            return cls(np.zeros(0, np.uint32), np.zeros(0, np.bool_))
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.learned for part in parts]),
        )

    def shard(self, vocab_size: int) -> bytes:
        """The ids as they lie in a shard."""
        return self.ids.astype(np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")).tobytes()

    def mask(self) -> bytes:
        """The mask as it lies beside a shard; nothing if every token is learned."""
        if self.learned.all():
            return b""
        return np.packbits(self.learned, bitorder="little").tobytes()
