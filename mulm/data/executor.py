"""Executors: who runs the pure stages of a build.

`InProcess` is here; the one on Ray Data stands in `jobs.prepare`. Invariant: an executor
decides nothing; what it returns depends on the items alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from mulm.data.documents import FileTask, Plan, assign, in_order, to_parquet
from mulm.data.encode import Encoded

ReadFile = Callable[[FileTask], pa.Table]
EncodeShard = Callable[[bytes, float], Encoded]


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to encode; `load` reads its Parquet bytes and is called by the driver."""

    load: Callable[[], bytes]
    chat_fraction: float


class Executor(Protocol):
    """Runs the pure stages over many items; results may come in any order."""

    def read(self, tasks: Sequence[FileTask], read_file: ReadFile) -> pa.Table:
        """Read all files, keep the texts, return the index in order of place."""

    def shards(self, plan: Plan) -> Iterator[tuple[int, bytes, int]]:
        """Parquet shards of what was read: shard number, bytes, documents inside."""

    def encode(
        self, tasks: Sequence[ShardTask], encode_shard: EncodeShard
    ) -> Iterator[tuple[int, Encoded]]:
        """Token shards: place in `tasks`, result."""


class InProcess:
    """Everything here and now: right for small corpora and for tests."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def read(self, tasks: Sequence[FileTask], read_file: ReadFile) -> pa.Table:
        """See `Executor.read`."""
        self._tables = [read_file(task) for task in tasks]
        return in_order(self._tables)

    def shards(self, plan: Plan) -> Iterator[tuple[int, bytes, int]]:
        """See `Executor.shards`."""
        table = assign(pa.concat_tables(self._tables), plan)
        for number in range(len(plan.shard_names)):
            shard = table.filter(pc.equal(table["shard"], number))
            yield number, to_parquet(shard), len(shard)

    def encode(
        self, tasks: Sequence[ShardTask], encode_shard: EncodeShard
    ) -> Iterator[tuple[int, Encoded]]:
        """See `Executor.encode`."""
        for place, task in enumerate(tasks):
            yield place, encode_shard(task.load(), task.chat_fraction)
