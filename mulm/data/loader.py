"""The loader: training batches as a pure function of (dataset, seed, step).

Called by the training loop and the evaluation. Invariants: the global batch of a step is the
same for any number of workers and any start step; every window appears once in each epoch of its
source; the validation windows cover each token once as a target. So the only state is the step.

Shapes: B rows, T `seq_len` tokens, W tokens of a window, one more than T.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from mulm.data.mixture import Mixture
from mulm.data.permutation import permute
from mulm.data.shards import ShardFiles, TokenShards
from mulm.errors import ConfigError, DataError
from mulm.manifest import Manifest
from mulm.store import Store

Split = Literal["train", "validation"]
IGNORED_TARGET = -100
"""The target of padding and of what a loss mask leaves out: cross-entropy passes over it."""

Row = tuple[int, int]
"""A group of shards, and a window in it."""


class TokenLoader:
    """The windows of one split of a dataset version, memory-mapped.

    Where texts are laid end to end, window w holds the tokens [w * T, w * T + T]: each token but
    the first is a target once. Where they are packed, it is the row w of T + 1 tokens; only
    training is. A mixed version has a group of shards for each source.

    Args:
        store: Where the shards lie; each is checked once, here.
        manifest: A version of kind "dataset".
        split: "train" or "validation".
        seq_len: T, tokens in a row; of a packed version it is given.
        seed: Chooses the order of the windows.

    Raises:
        CorruptError: a shard does not match its checksum.
        ConfigError: a `seq_len` that the version cannot have.
        DataError: a source of the split has fewer tokens than one window.
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
        self._is_packed = split == "train" and _is_packed(manifest, seq_len)
        self.seq_len = seq_len
        self._key = f"{manifest.id}:{split}:{seed}"
        files = _shard_files(manifest, split)
        if self._is_packed:
            _require_whole_rows(files, seq_len + 1)
        self._mixture = _mixture(manifest, set(files), self._key) if split == "train" else None
        self._names = self._mixture.sources if self._mixture else ("",)
        self._groups = [TokenShards(store, files.get(name, [])) for name in self._names]
        self.n_tokens = sum(map(len, self._groups))
        self._counts = [self._n_windows(len(group)) for group in self._groups]
        self._ends = list(accumulate(self._counts))
        self.n_windows = sum(self._counts)
        if split == "train":
            self._require_windows(manifest)

    @property
    def n_targets(self) -> int:
        """The targets of all windows, before any mask; of a validation with its short window."""
        return self.n_windows * self.seq_len if self._is_packed else max(0, self.n_tokens - 1)

    def rows(self, step: int, n_rows: int) -> list[int]:
        """The window numbers of the global batch of a step; steps count from 0.

        Sources of a mixture are counted through, in the order of their names.
        """
        rows = [self._row(position) for position in _positions(step, n_rows)]
        return [self._ends[group] - self._counts[group] + window for group, window in rows]

    def batch(
        self, step: int, n_rows: int, start: int = 0, stop: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows [start, stop) of the global batch of `n_rows` rows.

        Returns:
            x_BT and y_BT, int64; y is x one token later, or `IGNORED_TARGET` where it is masked.
        """
        rows = [self._row(position) for position in _positions(step, n_rows)[start:stop]]
        return self._read(rows)

    def iter_validation(
        self, batch_rows: int, start: int = 0, step: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All windows in order; every token but the first of a text is a target exactly once.

        Workers share them by batch: batch `start`, then every `step`-th, read one at a time.

        Yields:
            x_BT and y_BT, int64, B at most `batch_rows`. The last window may be short: it is
            filled with token 0 whose targets are `IGNORED_TARGET`.
        """
        windows = range(-(-self.n_targets // self.seq_len))
        for first in range(start * batch_rows, len(windows), step * batch_rows):
            yield self._read([(0, window) for window in windows[first : first + batch_rows]])

    def _row(self, position: int) -> Row:
        """Who stands at a position of the endless sequence of rows."""
        group, nth, key = 0, position, self._key
        if self._mixture is not None:
            group, nth = self._mixture.place(position)
            key = f"{key}:{self._names[group]}"
        epoch, index = divmod(nth, self._counts[group])
        return group, permute(index, self._counts[group], f"{key}:{epoch}")

    def _read(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        tokens_BW = torch.stack([self._tokens(row) for row in rows]).to(torch.int64)
        x_BT, y_BT = tokens_BW[:, :-1], tokens_BW[:, 1:]
        n_last = self._span(rows[-1])[1]
        if n_last <= self.seq_len or any(group.has_masks for group in self._groups):
            is_target_BW = _unpack([self._learned(row) for row in rows], self.seq_len + 1)
            y_BT = y_BT.masked_fill(~is_target_BW[:, 1:], IGNORED_TARGET)
        if n_last <= self.seq_len:
            x_BT[-1, n_last - 1 :] = 0
        return x_BT, y_BT

    def _tokens(self, row: Row) -> Tensor:
        """The tokens of a window, filled up with 0."""
        start, count = self._span(row)
        tokens = self._groups[row[0]].tokens(start, count)
        n_missing = self.seq_len + 1 - count
        return torch.cat([tokens, tokens.new_zeros(n_missing)]) if n_missing else tokens

    def _learned(self, row: Row) -> int:
        return self._groups[row[0]].learned(*self._span(row))

    def _span(self, row: Row) -> tuple[int, int]:
        """The first token and the number of tokens of a window; the last one may be short."""
        group, window = row
        start = window * (self.seq_len + self._is_packed)
        return start, min(self.seq_len + 1, len(self._groups[group]) - start)

    def _n_windows(self, n_tokens: int) -> int:
        if self._is_packed:
            return n_tokens // (self.seq_len + 1)
        return max(0, (n_tokens - 1) // self.seq_len)

    def _require_windows(self, manifest: Manifest) -> None:
        for name, group, count in zip(self._names, self._groups, self._counts, strict=True):
            if count < 1:
                whose = f"the source {name!r} of {manifest.id}" if name else manifest.id
                raise DataError(
                    f"{whose} has {len(group)} training tokens, fewer than one window"
                    f" of {self.seq_len + 1}",
                    hint="use a shorter seq_len or a larger corpus",
                )


def _positions(step: int, n_rows: int) -> range:
    return range(step * n_rows, (step + 1) * n_rows)


def _is_packed(manifest: Manifest, seq_len: int) -> bool:
    """Whether training reads rows of their own; then their length is the only one."""
    pack = manifest.config.get("pack") or {}
    mode = pack.get("mode", "concatenate")
    if mode == "concatenate":
        return False
    if mode != "best_fit":
        raise DataError(
            f"{manifest.id} is packed in a way that is unknown here: {mode!r}",
            hint="read it with the release that built it, or build the dataset again",
        )
    if pack.get("seq_len") != seq_len:
        raise ConfigError(
            f"{manifest.id} is packed in rows for seq_len {pack.get('seq_len')}, not {seq_len}",
            hint=f"set seq_len to {pack.get('seq_len')}, or build the dataset with"
            f" pack.seq_len {seq_len}",
        )
    return True


def _shard_files(manifest: Manifest, split: Split) -> dict[str, list[ShardFiles]]:
    """The shards of a split by their group, in the version's order; "" is the only one unmixed."""
    by_name = {entry.name: entry for entry in manifest.blobs}
    files: dict[str, list[ShardFiles]] = {}
    for entry in manifest.blobs:
        named = re.fullmatch(rf"{split}(?:-(.+))?-\d{{5,}}\.bin", entry.name)
        if named and entry.size_bytes:
            mask = by_name.get(entry.name.removesuffix("bin") + "mask")
            files.setdefault(named[1] or "", []).append(ShardFiles(entry, mask))
    return files


def _require_whole_rows(files: dict[str, list[ShardFiles]], width: int) -> None:
    for shard in (shard for group in files.values() for shard in group):
        if shard.tokens.rows % width:
            raise DataError(
                f"{shard.tokens.name!r} has {shard.tokens.rows} tokens, which are no whole rows of"
                f" {width}",
                hint="build the dataset again",
            )


def _mixture(manifest: Manifest, groups: set[str], key: str) -> Mixture | None:
    weights = manifest.config.get("mixture") or {}
    if unknown := groups - set(weights or {""}):
        raise DataError(
            f"{manifest.id} has shards of {min(unknown)!r}, which its mixture gives no weight",
            hint="build the dataset again",
        )
    return Mixture(weights, key) if weights else None


def _unpack(rows: Sequence[int], width: int) -> Tensor:
    """Bits to a bool tensor of `width` columns, the lowest bit first."""
    n_bytes = (width + 7) // 8
    content = bytearray(b"".join(row.to_bytes(n_bytes, "little") for row in rows))
    bytes_BN1 = torch.frombuffer(content, dtype=torch.uint8).view(len(rows), n_bytes, 1)
    bits_BN8 = (bytes_BN1 >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits_BN8.flatten(1)[:, :width].bool()
