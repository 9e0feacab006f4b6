"""The documents of a version, whatever layout it was written in.

Used by later stages of a build, and by whoever looks into a version. Two layouts are read: chunks
with `decisions.bin` beside them, and the shards of one decision each that earlier releases wrote.
Invariant: documents come in one order, that of the recipe's sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from mulm.data.decisions import TRAIN, VALIDATION, Decisions, Rows
from mulm.data.dedup import DIGEST_BYTES
from mulm.data.documents import CHUNK_SCHEMA, from_parquet
from mulm.errors import CorruptError
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store

CHUNK_PREFIX = "chunk-"
DECISIONS = "decisions.bin"
UNKNOWN = "unknown"
"""What a language or a source is called that is not recorded."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One file of documents, and what was decided of each."""

    entry: BlobEntry
    first: int
    """The number of its first document in the version."""
    decisions: Decisions
    """Of its documents."""

    @property
    def source(self) -> str:
        """What the recipe calls the source that it came from; earlier releases did not note it."""
        if not self.entry.name.startswith(CHUNK_PREFIX):
            return UNKNOWN
        return self.entry.name.removeprefix(CHUNK_PREFIX).rpartition("-")[0]


class Corpus:
    """Reads the documents of a version of kind "documents"."""

    def __init__(
        self, store: Store, name: str, blobs: tuple[BlobEntry, ...], decisions: Decisions | None
    ) -> None:
        self._store = store
        self._name = name
        self._blobs = blobs
        self._decisions = decisions

    @classmethod
    def of(cls, store: Store, manifest: Manifest) -> Corpus:
        """The documents of a version."""
        return cls(store, manifest.id, manifest.blobs, None)

    @classmethod
    def undecided(cls, store: Store, blobs: tuple[BlobEntry, ...]) -> Corpus:
        """The documents of a build that has not decided yet: all count as train."""
        n = sum(entry.rows for entry in blobs)
        return cls(store, "a build", blobs, Decisions((TRAIN,), np.zeros(n, np.uint8), {}))

    @cached_property
    def chunks(self) -> list[Chunk]:
        """All chunks in order. Raises CorruptError if the decisions are not of these chunks."""
        own = [entry for entry in self._blobs if entry.name.startswith(CHUNK_PREFIX)]
        if not own:
            return list(self._old_chunks())
        decisions = self.decisions
        if sum(entry.rows for entry in own) != len(decisions.codes):
            raise CorruptError(
                f"{self._name} holds other documents than it decided of", hint="build it again"
            )
        chunks, first = [], 0
        for entry in own:
            chunks.append(Chunk(entry, first, decisions.part(first, first + entry.rows)))
            first += entry.rows
        return chunks

    @cached_property
    def decisions(self) -> Decisions:
        """What became of each document."""
        if self._decisions is not None:
            return self._decisions
        for entry in self._blobs:
            if entry.name == DECISIONS:
                return Decisions.from_bytes(self._store.read(entry))
        return _joined([chunk.decisions for chunk in self._old_chunks()])

    def table(self, chunk: Chunk, columns: Sequence[str] | None = None) -> pa.Table:
        """The documents of a chunk, with columns of `CHUNK_SCHEMA`."""
        content = self._store.read(chunk.entry)
        if chunk.entry.name.startswith(CHUNK_PREFIX):
            return from_parquet(content, columns)
        return _renewed(from_parquet(content)).select(columns or CHUNK_SCHEMA.names)

    def rows(self, numbers: Sequence[int], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Some documents by number, in the given order; each chunk is read once."""
        found: dict[int, dict[str, Any]] = {}
        for chunk, own in self.by_chunk(numbers):
            taken = self.table(chunk, columns).take(pa.array(own - chunk.first))
            found |= dict(zip(own.tolist(), taken.to_pylist(), strict=True))
        for number in numbers:
            yield found[int(number)]

    def by_chunk(self, numbers: Sequence[int] | Rows) -> Iterator[tuple[Chunk, Rows]]:
        """The chunks that hold some documents, in order, and which of these each holds."""
        wanted = np.asarray(numbers, np.int64)
        firsts = [chunk.first for chunk in self.chunks]
        places = np.searchsorted(firsts, wanted, side="right") - 1
        for place in np.unique(places):
            yield self.chunks[place], wanted[places == place]

    def __len__(self) -> int:
        return sum(chunk.entry.rows for chunk in self.chunks)

    def _old_chunks(self) -> Iterator[Chunk]:
        first = 0
        for entry in self._blobs:
            side = entry.name.partition("-")[0]
            if side == "rejects":
                reasons = from_parquet(self._store.read(entry), ["reason"])["reason"].to_pylist()
                names = tuple(sorted(set(reasons)))
                codes = np.array([names.index(reason) for reason in reasons], np.uint8)
            elif side not in (TRAIN, VALIDATION):
                raise CorruptError(
                    f"{self._name} holds a file that is none of documents: {entry.name!r}",
                    hint="build it again",
                )
            else:
                names = (TRAIN, VALIDATION)
                codes = np.full(entry.rows, names.index(side), np.uint8)
            yield Chunk(entry, first, Decisions(names, codes, {}))
            first += entry.rows


def _joined(parts: Sequence[Decisions]) -> Decisions:
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    codes = [
        np.array([names.index(name) for name in part.names], np.uint8)[part.codes] for part in parts
    ]
    return Decisions(names, np.concatenate(codes), {})


def _renewed(old: pa.Table) -> pa.Table:
    """A shard of an earlier release with today's columns."""
    texts, n = old["text"].to_pylist(), len(old)
    digests = [bytes.fromhex(key)[:DIGEST_BYTES] for key in old["digest"].to_pylist()]
    columns = {
        "name": old["name"],
        "part": [0] * n,
        "row": old["section"].cast(pa.int64()),
        "digest": digests,
        "group": digests,
        "size_bytes": [len(text.encode()) for text in texts],
        "language": [""] * n,
        "reason": old["reason"],
        "bands": [b""] * n,
        "messages": [""] * n,
        "text": texts,
    }
    return pa.table(columns, schema=CHUNK_SCHEMA)
