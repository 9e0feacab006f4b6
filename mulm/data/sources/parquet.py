"""Parquet: text, or conversations, in columns; parts are row groups.

Invariant: only the columns that we read are decoded, a batch of rows at a time.
"""

# ruff: noqa: ARG002 - a source need not use all that its contract hands it

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import PART_BYTES, Part, RawDocument, SourceFile, UnreadableError
from mulm.data.sources.folders import find_files
from mulm.data.sources.formats import suffixes_of
from mulm.data.sources.rows import RowReader
from mulm.data.sources.streams import naming_damage

_BATCH_ROWS = 128
_BUFFER_BYTES = 1 << 20
"""Read pages as they come: without it a whole column of a row group is held."""


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """`.parquet`."""

    part_bytes: int = PART_BYTES

    def files(self, spec: SourceSpec) -> list[SourceFile]:
        """See `Source.files`."""
        return find_files(spec.path, suffixes_of("parquet"))

    def check(self, spec: SourceSpec, file: SourceFile) -> None:
        """See `Source.check`: the first rows; a damaged file is no matter of its schema."""
        try:
            with _opened(file) as parquet:
                names = parquet.schema_arrow.names
                RowReader(spec.columns).check(file, _rows(parquet, Part(), names))
        except UnreadableError:
            return

    def parts(self, spec: SourceSpec, file: SourceFile) -> list[Part]:
        """See `Source.parts`: row groups that follow each other."""
        try:
            with _opened(file) as parquet:
                sizes = [
                    parquet.metadata.row_group(number).total_byte_size
                    for number in range(parquet.num_row_groups)
                ]
        except UnreadableError:
            return [Part()]
        return _grouped(sizes, self.part_bytes)

    def read(self, spec: SourceSpec, file: SourceFile, part: Part) -> Iterator[RawDocument]:
        """See `Source.read`."""
        reader = RowReader(spec.columns)
        with _opened(file) as parquet:
            wanted = reader.wanted(parquet.schema_arrow.names)
            for row in _rows(parquet, part, wanted):
                yield reader.document(row)

    def column(self, file: SourceFile, name: str) -> Iterator[Any]:
        """The values of one column of a whole file."""
        with _opened(file) as parquet:
            if name not in parquet.schema_arrow.names:
                raise UnreadableError(f"no column {name!r}")
            for row in _rows(parquet, Part(), [name]):
                yield row[name]


@contextmanager
def _opened(file: SourceFile) -> Iterator[pq.ParquetFile]:
    with naming_damage(), file.path.open("rb") as content:
        yield pq.ParquetFile(content, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def _rows(parquet: pq.ParquetFile, part: Part, names: list[str]) -> Iterator[dict[str, Any]]:
    stop = parquet.num_row_groups if part.stop is None else part.stop
    groups = range(part.start, stop)
    for batch in parquet.iter_batches(_BATCH_ROWS, groups, names, use_threads=False):
        columns = [_values(column) for column in batch.columns]
        if not columns:
            yield from ({} for _ in range(batch.num_rows))
        for values in zip(*columns, strict=True):
            yield dict(zip(batch.schema.names, values, strict=True))


def _values(column: pa.Array) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        # One bad cell: the others are as good as before, and its bytes show what it was.
        return [_value(cell) for cell in column]


def _value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return cell.as_buffer().to_pybytes() if hasattr(cell, "as_buffer") else None


def _grouped(sizes: list[int], part_bytes: int) -> list[Part]:
    parts, start, size_bytes = [], 0, 0
    for number, group_bytes in enumerate(sizes, 1):
        size_bytes += group_bytes
        if size_bytes >= part_bytes or number == len(sizes):
            parts.append(Part(start, number))
            start, size_bytes = number, 0
    return parts or [Part()]
