"""Documents: the table that all stages share, and how it lies in a file.

A *chunk* is a table of some thousand documents as they were read: kept ones and rejects, each with
what later stages decide by. Chunks never change: what is held out, and what repeats something in
another chunk, stands beside them (`mulm.data.decisions`). Invariant: the identity of a chunk is a
hash of its rows, not of the bytes that some release of a compressor makes of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mulm.config import canonical_json
from mulm.data.dedup import DIGEST_BYTES

CHUNK_BYTES = 16 << 20
"""Text in a chunk: large enough to compress well, small enough to be one worker's task."""

CHUNK_SCHEMA = pa.schema(
    [
        ("name", pa.string()),  # of its file, below its source
        ("part", pa.int64()),  # where its part of the file starts
        ("row", pa.int64()),  # its place in that part
        ("digest", pa.binary(DIGEST_BYTES)),  # of its text, blind to white space
        ("group", pa.binary(DIGEST_BYTES)),  # what is held out together
        ("size_bytes", pa.int64()),  # of its text in UTF-8
        ("language", pa.string()),  # ISO 639-1, "" if not identified
        ("reason", pa.string()),  # why it was rejected by itself, "" if it was not
        ("bands", pa.binary()),  # MinHash bands, little-endian uint64; b"" if not asked for
        ("messages", pa.string()),  # a conversation as JSON, "" for plain text
        ("text", pa.string()),
    ]
)
_FEW_VALUES = ("name", "language", "reason")


def to_parquet(table: pa.Table) -> bytes:
    """A chunk as a Parquet file."""
    target = BytesIO()
    pq.write_table(
        table.cast(CHUNK_SCHEMA).combine_chunks(),
        target,
        compression="zstd",
        compression_level=1,
        use_dictionary=list(_FEW_VALUES),
        write_statistics=False,
    )
    return target.getvalue()


def from_parquet(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """A chunk, or some of its columns, which costs little without the texts."""
    # One thread: tasks run side by side already, and Arrow's own may outlive a short command.
    file = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False)
    return file.read(columns=None if columns is None else list(columns), use_threads=False)


def content_hash(table: pa.Table) -> str:
    """The SHA-256 of a chunk's rows: how many, then column by column lengths and bytes."""
    hashed = hashlib.sha256(canonical_json([CHUNK_SCHEMA.names, len(table)]))
    for field in CHUNK_SCHEMA:
        column = table[field.name].cast(field.type).combine_chunks()
        for values in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            for part in _raw(values):
                hashed.update(part)
    return hashed.hexdigest()


def _raw(column: pa.Array) -> list[memoryview]:
    """The values of a column without nulls, as plain bytes that no release of Arrow changes."""
    assert column.null_count == 0, "chunks have no nulls"
    n = len(column)
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        offsets = np.frombuffer(column.buffers()[1], "<i4")[column.offset : column.offset + n + 1]
        lengths = np.diff(offsets.astype("<i8"))
        start, stop = (int(offsets[0]), int(offsets[-1])) if n else (0, 0)
        data = column.buffers()[2]
        return [
            memoryview(lengths.tobytes()),
            memoryview(data)[start:stop] if data else memoryview(b""),
        ]
    width = DIGEST_BYTES if pa.types.is_fixed_size_binary(column.type) else 8
    start = column.offset * width
    return [memoryview(column.buffers()[1])[start : start + n * width]]
