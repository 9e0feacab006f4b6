"""Decisions: what becomes of each document once all are known.

Made by the driver from the chunks' columns other than the texts. Invariants: the first of several
equal documents in recipe order stays; no document stands on both sides of the split; the decisions
depend on the documents and the rules alone.

    decisions.bin      {"names": ["train", "validation", "duplicate", ...], "n": N,
                       "n_originals": M}, a line end, N bytes (an index into names for each
                       document in order), M pairs of little-endian int64 (document, the earlier
                       one that it repeats)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mulm.config import canonical_json
from mulm.data.recipe import SplitRule
from mulm.data.split import held_out
from mulm.errors import CorruptError, DataError

TRAIN, VALIDATION = "train", "validation"
DUPLICATE, NEAR_DUPLICATE, KNOWN = "duplicate", "near_duplicate", "known"
OWN_NAMES = frozenset({TRAIN, VALIDATION, DUPLICATE, NEAR_DUPLICATE, KNOWN})
MAX_NAMES = 256
"""A decision is a byte."""

Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]
Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]
Rows = np.ndarray[tuple[int], np.dtype[np.int64]]

INDEX_COLUMNS = ("digest", "group", "size_bytes", "reason", "bands")


@dataclass(frozen=True, slots=True)
class Index:
    """The columns of all documents that decisions are made by, in order."""

    digests: np.ndarray
    groups: np.ndarray
    size_bytes: Rows
    reasons: list[str]
    bands: np.ndarray | None
    """uint64 [n, n_bands], or nothing where near duplicates are not looked for."""

    def __len__(self) -> int:
        return len(self.reasons)

    @classmethod
    def of(cls, tables: Sequence[pa.Table]) -> Index:
        """The index over tables with `INDEX_COLUMNS`."""
        return cls(
            digests=np.concatenate([_fixed(table["digest"]) for table in tables]),
            groups=np.concatenate([_fixed(table["group"]) for table in tables]),
            size_bytes=np.concatenate([table["size_bytes"].to_numpy() for table in tables]),
            reasons=[reason for table in tables for reason in table["reason"].to_pylist()],
            bands=_bands(tables),
        )


@dataclass(frozen=True, slots=True)
class Decisions:
    """`codes[i]` is the index into `names` of what becomes of document i."""

    names: tuple[str, ...]
    codes: Bytes
    originals: dict[int, int]
    """For a document that repeats one of this version, which."""

    def are(self, name: str) -> Flags:
        """Which documents that was decided of."""
        if name not in self.names:
            return np.zeros(len(self.codes), np.bool_)
        return np.equal(self.codes, self.names.index(name))

    @property
    def are_kept(self) -> Flags:
        """Which documents stand on a side of the split."""
        return self.are(TRAIN) | self.are(VALIDATION)

    def part(self, start: int, stop: int) -> Decisions:
        """Those of the documents [start, stop); what repeats what is told by the whole alone."""
        return Decisions(self.names, self.codes[start:stop], {})

    def counts(self) -> dict[str, int]:
        """How many documents each decision has; those with none are left out."""
        found = np.bincount(self.codes, minlength=len(self.names))
        return {name: int(n) for name, n in zip(self.names, found, strict=True) if n}

    def to_bytes(self) -> bytes:
        """The file of the module's head."""
        pairs = np.array(sorted(self.originals.items()), "<i8").reshape(-1, 2)
        head = {"names": list(self.names), "n": len(self.codes), "n_originals": len(pairs)}
        return canonical_json(head) + b"\n" + self.codes.tobytes() + pairs.tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> Decisions:
        """Read what `to_bytes` wrote. Raises CorruptError."""
        try:
            head, _, body = content.partition(b"\n")
            values = json.loads(head)
            n, n_originals = int(values["n"]), int(values["n_originals"])
            codes = np.frombuffer(body, np.uint8, n)
            pairs = np.frombuffer(body, "<i8", 2 * n_originals, offset=n).reshape(-1, 2)
            read = cls(tuple(map(str, values["names"])), codes, dict(pairs.tolist()))
        except (ValueError, KeyError, TypeError):
            raise _corrupt() from None
        if codes.max(initial=0) >= len(read.names) or read.to_bytes() != content:
            raise _corrupt()
        return read


def exact_duplicates(index: Index, known: np.ndarray | None = None) -> tuple[Rows, Flags]:
    """Documents that say what another one says.

    Args:
        index: All documents; those with a reason neither repeat nor are repeated.
        known: Digests of documents that count as seen before.

    Returns:
        For each document the earlier one that it repeats, or -1; and which are known.
    """
    n = len(index)
    original = np.full(n, -1, np.int64)
    is_candidate = np.array([not reason for reason in index.reasons], np.bool_)
    rows = np.flatnonzero(is_candidate)
    if len(rows):
        _, first, inverse = np.unique(
            index.digests[rows], return_index=True, return_inverse=True
        )  # `first` is the lowest row: the sort behind it is stable
        firsts = rows[first[inverse]]
        original[rows[firsts != rows]] = firsts[firsts != rows]
    is_known = np.zeros(n, np.bool_)
    if known is not None and len(known):
        is_known = is_candidate & np.isin(index.digests, known)
    return original, is_known


def decide(
    index: Index,
    split: SplitRule,
    original: Rows,
    is_near: Flags,
    is_known: Flags,
    is_held_out: Flags | None = None,
) -> Decisions:
    """What becomes of each document.

    Args:
        index: All documents.
        split: What is held out.
        original: The earlier document that one repeats, or -1.
        is_near: Which of these repeat it only nearly.
        is_known: Which documents repeat one of an existing version.
        is_held_out: Which are for validation, where their sources say so; else `split` chooses.

    Raises:
        DataError: there are fewer than two groups to split, or more reasons than a byte can tell.
    """
    reasons = np.array(index.reasons, dtype=object)
    repeats = original >= 0
    reasons[repeats & ~is_near] = DUPLICATE
    reasons[repeats & is_near] = NEAR_DUPLICATE
    reasons[is_known] = KNOWN
    kept = np.array([not reason for reason in reasons], np.bool_)
    reasons[kept] = TRAIN
    if is_held_out is None:
        is_held_out = _held_out(index, kept, split)
    reasons[kept & is_held_out] = VALIDATION
    names = (TRAIN, VALIDATION, *sorted(set(reasons) - {TRAIN, VALIDATION}))
    if len(names) > MAX_NAMES:
        raise DataError(
            f"documents were rejected for {len(names)} different reasons",
            hint=f"a source may give some; all together have room for {MAX_NAMES - 2}",
        )
    code = {name: number for number, name in enumerate(names)}
    codes = np.fromiter((code[reason] for reason in reasons), np.uint8, len(reasons))
    return Decisions(
        names, codes, {int(row): int(original[row]) for row in np.flatnonzero(repeats & ~is_known)}
    )


def _corrupt() -> CorruptError:
    return CorruptError("decisions.bin cannot be read", hint="build the dataset again")


def _held_out(index: Index, kept: Flags, split: SplitRule) -> Flags:
    if not kept.any():
        return kept
    groups, inverse = np.unique(index.groups, return_inverse=True)
    alive = np.unique(inverse[kept])
    chosen = held_out(
        [groups[group].tobytes().hex() for group in alive], split.validation_fraction, split.salt
    )
    is_chosen = np.array([group.tobytes().hex() in chosen for group in groups], np.bool_)
    return is_chosen[inverse]


def _fixed(column: pa.ChunkedArray) -> np.ndarray:
    """A column of fixed-size binary as an array of that many bytes an item."""
    width = column.type.byte_width
    parts = [
        np.frombuffer(chunk.buffers()[1], f"V{width}", len(chunk), chunk.offset * width)
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, f"V{width}")


def _bands(tables: Sequence[pa.Table]) -> np.ndarray | None:
    rows = [row for table in tables for row in table["bands"].to_pylist()]
    if not rows or not rows[0]:
        return None
    return np.frombuffer(b"".join(rows), "<u8").reshape(len(rows), -1)
