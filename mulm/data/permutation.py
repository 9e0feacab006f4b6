"""A permutation of range(size) that a key names, without a table.

Called by the loader and the mixture. Invariant: a pure function of (index, size, key) on integers,
so the same on every machine; what it gives stands in the order of every training run and never
changes.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

_FEISTEL_ROUNDS = 4


def permute(index: int, size: int, key: str) -> int:
    """Where `index` goes in the permutation of range(size) that `key` names.

    A Feistel network over the next power of four, walked until it lands inside: a bijection
    that needs no table (Luby and Rackoff 1988; cycle walking: Black and Rogaway 2002).
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    round_keys = _round_keys(key)
    while True:
        left, right = index >> half_bits, index & mask
        for round_key in round_keys:
            # The finaliser of SplitMix64, written out since this is the loader's innermost loop.
            mixed = right ^ round_key
            mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
            mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
            left, right = right, left ^ ((mixed ^ (mixed >> 31)) & mask)
        index = (left << half_bits) | right
        if index < size:
            return index


@lru_cache(maxsize=256)
def _round_keys(key: str) -> tuple[int, ...]:
    digest = hashlib.sha256(key.encode()).digest()
    return tuple(
        int.from_bytes(digest[8 * k : 8 * k + 8], "little") for k in range(_FEISTEL_ROUNDS)
    )
