"""Token shards of a version, memory-mapped and read as one long sequence, with their loss masks.

Called by the loader. Invariants: every file is checked against its checksum before it is mapped;
a shard without a mask is learned from beginning to end.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from mulm.errors import DataError
from mulm.manifest import BlobEntry
from mulm.store import Store

_DTYPE_BY_BYTES = {2: torch.uint16, 4: torch.int32}
"""uint32 is mapped as int32: ids stay below 2^31."""


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """The files of one shard."""

    tokens: BlobEntry
    mask: BlobEntry | None = None
    """One bit a token, the lowest bit of a byte first: is this token learned as a target?"""


class TokenShards:
    """The tokens of some shards, one after another.

    Args:
        store: Where the files lie.
        files: The shards in their order; none is empty.

    Raises:
        CorruptError: a file does not match its checksum.
        DataError: a file is no shard or no mask, or the widths of the tokens differ.
    """

    def __init__(self, store: Store, files: list[ShardFiles]) -> None:
        paths = store.paths([shard.tokens for shard in files])
        self._tokens = [_map_tokens(*pair) for pair in zip(paths, files, strict=True)]
        self._masks = [_map_mask(store, shard) for shard in files]
        bounds = list(accumulate((shard.tokens.rows for shard in files), initial=0))
        self._starts, self._ends = bounds[:-1], bounds[1:]
        if len({tokens.dtype for tokens in self._tokens}) > 1:
            raise DataError(
                f"the shards from {files[0].tokens.name!r} on differ in the width of a token",
                hint="build the dataset again",
            )

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def has_masks(self) -> bool:
        """Whether some tokens may not be targets."""
        return any(mask is not None for mask in self._masks)

    def tokens(self, start: int, count: int) -> Tensor:
        """Tokens [start, start + count) in their stored type; inside one shard it is a view."""
        shard = bisect_right(self._ends, start)
        if start + count <= self._ends[shard]:  # nearly always
            return self._tokens[shard].narrow(0, start - self._starts[shard], count)
        return torch.cat([self._tokens[shard][a:b] for shard, a, b in self._pieces(start, count)])

    def learned(self, start: int, count: int) -> int:
        """Which of these tokens are learned as targets: bit i tells of token start + i."""
        bits, n_done = 0, 0
        for shard, a, b in self._pieces(start, count):
            bits |= _bits(self._masks[shard], a, b) << n_done
            n_done += b - a
        return bits

    def _pieces(self, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """(shard, from, to) of what lies in each shard."""
        end = start + count
        while start < end:
            shard = bisect_right(self._ends, start)
            first = self._starts[shard]
            stop = min(end, self._ends[shard])
            yield shard, start - first, stop - first
            start = stop


def _bits(mask: Tensor | None, start: int, stop: int) -> int:
    ones = (1 << (stop - start)) - 1
    if mask is None:
        return ones
    content = bytes(mask[start // 8 : (stop + 7) // 8].tolist())
    return (int.from_bytes(content, "little") >> (start % 8)) & ones


def _map_tokens(path: Path, shard: ShardFiles) -> Tensor:
    entry = shard.tokens
    n_bytes = entry.size_bytes // entry.rows if entry.rows else 0
    if n_bytes not in _DTYPE_BY_BYTES or n_bytes * entry.rows != entry.size_bytes:
        raise DataError(f"{entry.name!r} is no shard of tokens", hint="build the dataset again")
    dtype = _DTYPE_BY_BYTES[n_bytes]
    return torch.from_file(str(path), shared=False, size=entry.rows, dtype=dtype)


def _map_mask(store: Store, shard: ShardFiles) -> Tensor | None:
    mask = shard.mask
    if mask is None:
        return None
    if mask.size_bytes != (shard.tokens.rows + 7) // 8:
        raise DataError(
            f"{mask.name!r} does not fit {shard.tokens.name!r}: it has {mask.size_bytes} bytes for"
            f" {shard.tokens.rows} tokens",
            hint="build the dataset again",
        )
    path = str(store.path(mask))
    return torch.from_file(path, shared=False, size=mask.size_bytes, dtype=torch.uint8)
