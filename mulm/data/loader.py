"""The loader: training batches as a pure function of (dataset, seed, step).

Called by the training loop and the evaluation. Invariants: the global batch of a step is the
same for any number of workers and any start step; every window appears once in each epoch;
the validation windows cover each token once as a target. So the only state is the step.

Shapes: B rows, T `seq_len` tokens.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from mulm.errors import ConfigError, DataError
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store

Split = Literal["train", "validation"]
IGNORED_TARGET = -100
"""The target of padding: cross-entropy passes over it."""

_DTYPE_BY_BYTES = {2: torch.uint16, 4: torch.int32}
_FEISTEL_ROUNDS = 4


class TokenLoader:
    """The windows of one split of a dataset version, memory-mapped.

    Window w holds the tokens [w * T, w * T + T]: each token but the first is a target once.

    Args:
        store: Where the shards lie; each is checked once, here.
        manifest: A version of kind "dataset".
        split: "train" or "validation".
        seq_len: T, tokens in a row.
        seed: Chooses the order of the windows.

    Raises:
        CorruptError: a shard does not match its checksum.
        DataError: the split has fewer tokens than one window.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        split: Split = "train",
        *,
        seq_len: int,
        seed: int = 0,
    ) -> None:
        if seq_len < 1:
            raise ConfigError(f"seq_len {seq_len} is too small", hint="use at least 1")
        entries = [b for b in manifest.blobs if b.name.startswith(f"{split}-") and b.size_bytes]
        self._shards = [_map_shard(store, entry) for entry in entries]
        self._ends = list(accumulate(len(shard) for shard in self._shards))
        self.seq_len = seq_len
        self.n_tokens = self._ends[-1] if self._ends else 0
        self.n_windows = (self.n_tokens - 1) // seq_len
        self._key = f"{manifest.id}:{split}:{seed}"
        if split == "train" and self.n_windows < 1:
            raise DataError(
                f"{manifest.id} has {self.n_tokens} training tokens, fewer than one window"
                f" of {seq_len + 1}",
                hint="use a shorter seq_len or a larger corpus",
            )

    def rows(self, step: int, n_rows: int) -> list[int]:
        """The window numbers of the global batch of a step; steps count from 0."""
        first = step * n_rows
        return [self._window(position) for position in range(first, first + n_rows)]

    def batch(
        self, step: int, n_rows: int, start: int = 0, stop: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows [start, stop) of the global batch of `n_rows` rows.

        Returns:
            x_BT and y_BT, int64; y is x one token later.
        """
        windows = self.rows(step, n_rows)[start:stop]
        tokens = torch.stack([self._tokens(w * self.seq_len, self.seq_len + 1) for w in windows])
        return tokens[:, :-1], tokens[:, 1:]

    def iter_validation(
        self, batch_rows: int, start: int = 0, step: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All windows in order; every token but the first is a target exactly once.

        Workers share them by batch: batch `start`, then every `step`-th, read one at a time.

        Yields:
            x_BT and y_BT, int64, B at most `batch_rows`. The last window may be short: it is
            filled with token 0 whose targets are `IGNORED_TARGET`.
        """
        windows = range(0, max(0, self.n_tokens - 1), self.seq_len)
        for first in range(start * batch_rows, len(windows), step * batch_rows):
            rows = [self._padded(window) for window in windows[first : first + batch_rows]]
            yield torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])

    def _window(self, position: int) -> int:
        epoch, index = divmod(position, self.n_windows)
        return permute(index, self.n_windows, f"{self._key}:{epoch}")

    def _padded(self, start: int) -> tuple[Tensor, Tensor]:
        tokens = self._tokens(start, min(self.seq_len + 1, self.n_tokens - start))
        n_missing = self.seq_len + 1 - len(tokens)
        x = torch.nn.functional.pad(tokens[:-1], (0, n_missing), value=0)
        y = torch.nn.functional.pad(tokens[1:], (0, n_missing), value=IGNORED_TARGET)
        return x, y

    def _tokens(self, start: int, count: int) -> Tensor:
        """Tokens [start, start + count) as int64, across shards."""
        parts = []
        while count > 0:
            shard = bisect_right(self._ends, start)
            offset = start - (self._ends[shard] - len(self._shards[shard]))
            part = self._shards[shard][offset : offset + count]
            parts.append(part.to(torch.int64))
            start, count = start + len(part), count - len(part)
        return torch.cat(parts)


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
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        index = (left << half_bits) | right
        if index < size:
            return index


def _round_keys(key: str) -> tuple[int, ...]:
    digest = hashlib.sha256(key.encode()).digest()
    return tuple(
        int.from_bytes(digest[8 * k : 8 * k + 8], "little") for k in range(_FEISTEL_ROUNDS)
    )


def _mix(value: int) -> int:
    """The finaliser of SplitMix64: spreads every bit over all 64."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ (value >> 31)


def _map_shard(store: Store, entry: BlobEntry) -> Tensor:
    """The tokens of a shard. uint16, or int32 for uint32 (ids stay below 2^31)."""
    n_bytes = entry.size_bytes // entry.rows if entry.rows else 0
    if n_bytes not in _DTYPE_BY_BYTES or n_bytes * entry.rows != entry.size_bytes:
        raise DataError(f"{entry.name!r} is no shard of tokens", hint="build the dataset again")
    path = store.path(entry)
    return torch.from_file(str(path), shared=False, size=entry.rows, dtype=_DTYPE_BY_BYTES[n_bytes])
