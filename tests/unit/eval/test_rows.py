"""Rows come from what hubs publish; the first bad one is named by file, row and column."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mulm.data.sources.base import SourceFile
from mulm.errors import DataError, MulmError, SchemaError
from mulm.eval.rows import read_rows

COLUMNS = {"goal": (str,), "label": (int, str)}
ROWS = [{"goal": "a", "label": 0}, {"goal": "b\u2028c", "label": "1"}]
LINES = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode() + b"\n"


def rows_of(tmp_path: Path, name: str, content: bytes) -> list[tuple[str, object]]:
    path = tmp_path / name
    path.write_bytes(content)
    return list(read_rows(SourceFile(name, path), COLUMNS))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.json", LINES),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.json", b"\xef\xbb\xbf\n" + json.dumps(ROWS, indent=1).encode()),
    ],
)
def test_json_in_every_form(tmp_path: Path, name: str, content: bytes) -> None:
    found = rows_of(tmp_path, name, content)
    assert found == [(f"'{name}', row {n}", row) for n, row in enumerate(ROWS, 1)]


def test_parquet(tmp_path: Path) -> None:
    rows = [{"goal": "a", "label": 0, "more": {"text": ["x"]}}, {"goal": "b", "label": 1}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = read_rows(SourceFile("a.parquet", tmp_path / "a.parquet"), COLUMNS)
    assert [(row["goal"], row["label"]) for _, row in found] == [("a", 0), ("b", 1)]


@pytest.mark.parametrize(
    ("name", "content", "error", "told"),
    [
        ("a.jsonl", LINES + b'{"goal": ', SchemaError, "'a.jsonl', row 3: no JSON"),
        ("a.jsonl", LINES + b'{"goal": "\xff"}', SchemaError, "row 3"),
        ("a.jsonl", LINES + b"[1]", SchemaError, "row 3: is no object"),
        (
            "a.jsonl",
            LINES + b'{"gaol": "x"}',
            SchemaError,
            "no column 'goal', 'label'; found: 'gao",
        ),
        ("a.jsonl", b"{}", SchemaError, "found: none"),
        ("a.jsonl", b'{"goal": 3, "label": 1}', SchemaError, "column 'goal' holds int, not text"),
        ("a.jsonl", b'{"goal": "x", "label": true}', SchemaError, "'label' holds bool"),
        ("a.jsonl", b"", DataError, "no rows"),
        ("a.json", b'[{"goal": "x", "label": 1}', DataError, "no JSON"),
        ("a.parquet", b"PAR1 nothing", DataError, "damaged after row 0"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-9], DataError, "damaged after row"),
    ],
)
def test_damage_is_named(
    tmp_path: Path, name: str, content: bytes, error: type[MulmError], told: str
) -> None:
    with pytest.raises(error) as caught:
        rows_of(tmp_path, name, content)
    assert told in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_a_missing_column_is_told_in_details(tmp_path: Path) -> None:
    with pytest.raises(SchemaError) as caught:
        rows_of(tmp_path, "a.jsonl", b'{"goal": "x"}')
    expected = {"file": "a.jsonl", "row": 1, "missing": ["label"], "found": ["goal"]}
    assert caught.value.details == expected
