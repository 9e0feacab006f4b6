"""Documents: files read, cut and judged; the plan of shards; the shards' bytes.

The pure parts of the first stage of a build. An executor runs `read_file` for every file,
wherever; the driver makes one `Plan` from all columns but the texts; then `assign` and
`to_parquet` make each shard. Invariant: the shards depend on the files and the rules alone,
not on who read what in which order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mulm.data.clean import decode, judge, normalise
from mulm.data.dedup import digest, duplicates
from mulm.data.recipe import CleanRules, SplitRule
from mulm.data.sections import cut_sections
from mulm.data.sources.base import SourceFile, UnreadableError
from mulm.data.sources.registry import source_of
from mulm.data.split import held_out

SHARD_BYTES = 16 << 20
"""Text in a shard: large enough to compress well, small enough to be one worker's task."""

INDEX_SCHEMA = pa.schema(
    [
        ("file", pa.int32()),
        ("section", pa.int32()),
        ("name", pa.string()),
        ("digest", pa.string()),
        ("group", pa.string()),
        ("size_bytes", pa.int64()),
        ("reason", pa.string()),
    ]
)
"""What the driver sees of a document; (file, section) is its place, `reason` "" if kept."""
DOCUMENT_SCHEMA = INDEX_SCHEMA.append(pa.field("text", pa.string()))
STORED_SCHEMA = pa.schema(
    [DOCUMENT_SCHEMA.field(name) for name in ("name", "section", "digest", "reason", "text")]
)

Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]
Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class FileTask:
    """One file to read; `number` is its place among all files of the recipe."""

    number: int
    source: str
    file: SourceFile


@dataclass(frozen=True, slots=True)
class Plan:
    """Which document goes into which shard.

    `shard_by_row` has one shard number for each document in order of place; the documents of
    file f begin at row `first_row_by_file[f]`. `is_duplicate` is by row too.
    """

    shard_names: tuple[str, ...]
    shard_by_row: Numbers
    is_duplicate: Flags
    first_row_by_file: Numbers
    n_kept: int
    reasons: dict[str, int]
    bytes_by_side: dict[str, int]


def read_file(task: FileTask, rules: CleanRules, by: str = "section") -> pa.Table:
    """All documents of a file, kept or with a reason, as `DOCUMENT_SCHEMA`."""
    rows = []
    for section, (text, group, reason) in enumerate(_judged(task, rules, by)):
        size_bytes = len(text.encode())
        key = digest(text)
        name = task.file.name
        rows.append((task.number, section, name, key, group or key, size_bytes, reason, text))
    columns = list(zip(*rows, strict=True)) or [()] * len(DOCUMENT_SCHEMA)
    return pa.table([list(column) for column in columns], schema=DOCUMENT_SCHEMA)


def make_plan(index: pa.Table, split: SplitRule, shard_bytes: int = SHARD_BYTES) -> Plan:
    """Decide duplicates, the split and the shards from the index in order of place.

    Raises:
        DataError: there are fewer than two groups to split.
    """
    is_duplicate = _duplicates_among_kept(index)
    reasons = _with_duplicates(index["reason"].to_pylist(), is_duplicate)
    groups = index["group"].to_pylist()
    kept = {group for group, reason in zip(groups, reasons, strict=True) if not reason}
    validation = held_out(kept, split.validation_fraction, split.salt) if kept else frozenset()
    sides = [
        "rejects" if reason else "validation" if group in validation else "train"
        for group, reason in zip(groups, reasons, strict=True)
    ]
    sizes_bytes = index["size_bytes"].to_pylist()
    names, shard_by_row = _number_shards(sides, sizes_bytes, shard_bytes)
    counts = Counter(reasons)
    return Plan(
        shard_names=names,
        shard_by_row=shard_by_row,
        is_duplicate=is_duplicate,
        first_row_by_file=_first_rows(index),
        n_kept=counts.pop("", 0),
        reasons=dict(sorted(counts.items())),
        bytes_by_side={
            side: sum(n for own, n in zip(sides, sizes_bytes, strict=True) if own == side)
            for side in ("train", "validation")
        },
    )


def assign(table: pa.Table, plan: Plan) -> pa.Table:
    """The documents with their shard number in a column "shard", and duplicates named so."""
    rows = plan.first_row_by_file[table["file"].to_numpy()] + table["section"].to_numpy()
    reasons = _with_duplicates(table["reason"].to_pylist(), plan.is_duplicate[rows])
    place = table.schema.get_field_index("reason")
    named = table.set_column(place, table.schema.field("reason"), pa.array(reasons, pa.string()))
    return named.append_column("shard", pa.array(plan.shard_by_row[rows], pa.int32()))


def to_parquet(table: pa.Table) -> bytes:
    """The bytes of a shard: its documents in order of place, whatever order they came in."""
    ordered = table.sort_by([("file", "ascending"), ("section", "ascending")])
    target = BytesIO()
    # A shuffle may widen types and keep chunks: one schema and one chunk give one result.
    stored = ordered.select(STORED_SCHEMA.names).cast(STORED_SCHEMA).combine_chunks()
    pq.write_table(stored, target, compression="zstd")
    return target.getvalue()


def from_parquet(content: bytes) -> pa.Table:
    """The documents of a shard, in order, as `STORED_SCHEMA`."""
    return pq.read_table(BytesIO(content))


def in_order(tables: Iterable[pa.Table]) -> pa.Table:
    """The index of all documents, in order of place."""
    index = pa.concat_tables([table.select(INDEX_SCHEMA.names) for table in tables])
    return index.sort_by([("file", "ascending"), ("section", "ascending")])


def _judged(task: FileTask, rules: CleanRules, by: str) -> Iterator[tuple[str, str | None, str]]:
    """(text, group, reason) of each document in a file."""
    try:
        for content in source_of(task.source).read(task.file):
            yield from _documents(content, rules, by)
    except UnreadableError as error:
        yield str(error), None, "unreadable"


def _documents(content: bytes, rules: CleanRules, by: str) -> Iterator[tuple[str, str | None, str]]:
    raw, reason = decode(content)
    if reason:
        yield raw, None, reason
        return
    text = normalise(raw)
    group = digest(text) if by == "file" else None
    for section in cut_sections(text) or [""]:
        yield section, group, judge(section, rules) or ""


def _duplicates_among_kept(index: pa.Table) -> Flags:
    # A rejected document is no original: give it a digest that nothing else has.
    pairs = zip(index["digest"].to_pylist(), index["reason"].to_pylist(), strict=True)
    keys = [f"row {row}" if reason else key for row, (key, reason) in enumerate(pairs)]
    return np.array(duplicates(keys), dtype=np.bool_)


def _with_duplicates(reasons: list[str], is_duplicate: Flags) -> list[str]:
    return [
        "duplicate" if repeated else reason
        for reason, repeated in zip(reasons, is_duplicate, strict=True)
    ]


def _number_shards(
    sides: list[str], sizes_bytes: list[int], shard_bytes: int
) -> tuple[tuple[str, ...], Numbers]:
    """Fill shards of each side in order of place."""
    names: list[str] = []
    shard_by_row = np.zeros(len(sides), dtype=np.int64)
    for side in ("train", "validation", "rejects"):
        n_shards, room_bytes = 0, 0
        for row, (own, size_bytes) in enumerate(zip(sides, sizes_bytes, strict=True)):
            if own != side:
                continue
            if room_bytes <= 0:
                names.append(f"{side}-{n_shards:05}.parquet")
                n_shards, room_bytes = n_shards + 1, shard_bytes
            shard_by_row[row] = len(names) - 1
            room_bytes -= size_bytes
    return tuple(names), shard_by_row


def _first_rows(index: pa.Table) -> Numbers:
    files = index["file"].to_numpy()
    n_files = int(files[-1]) + 1 if len(files) else 0
    return np.searchsorted(files, np.arange(n_files)).astype(np.int64)
