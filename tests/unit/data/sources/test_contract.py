"""All our sources keep the contract, on small files of every kind; a bad source is told so."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.auto import AutoSource
from mulm.data.sources.base import Part, RawDocument, Source, SourceFile
from mulm.data.sources.books import BooksSource
from mulm.data.sources.contract import violations
from mulm.data.sources.delimited import CsvSource
from mulm.data.sources.jsonl import JsonSource
from mulm.data.sources.parquet import ParquetSource
from mulm.data.sources.text import TextSource
from mulm.data.sources.wikitext import WholeSentencesSource, WikiTextSource

PROSE = "".join(f"Paragraph {n} of a café.\nIts second line.\n\n" for n in range(40))
WIKI = "".join(f" \n = Title {n} = \n \n Text , number {n} . \n" for n in range(20))
ROWS = [{"text": f'Row {n} is a "text",\nof two lines.'} for n in range(40)]
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "prose.txt").write_text(PROSE)
    (tmp_path / "deep" / "prose.md.gz").write_bytes(gzip.compress(PROSE.encode()))
    with pa.output_stream(str(tmp_path / "prose.txt.zst"), compression="zstd") as stream:
        stream.write(PROSE.encode())
    (tmp_path / "wide.txt").write_text(PROSE, encoding="utf-16")
    lines = "".join(json.dumps(row) + "\n" for row in [*ROWS, CHAT])
    (tmp_path / "rows.jsonl").write_text(lines)
    (tmp_path / "rows.ndjson.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "list.json").write_text(json.dumps(ROWS, indent=2))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=7)
    for name, dialect in (("rows.csv", "excel"), ("rows.tsv", "excel-tab")):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text"], dialect=dialect)
            writer.writeheader()
            writer.writerows(ROWS)
    (tmp_path / "wiki").mkdir()
    (tmp_path / "wiki" / "wiki.test.tokens").write_text(WIKI)
    wiki_rows = [{"text": f"{line}\n"} for line in WIKI.split("\n")]
    pq.write_table(pa.Table.from_pylist(wiki_rows), tmp_path / "wiki" / "test.parquet")
    with (tmp_path / "wiki" / "quoted.txt").open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([row["text"]] for row in wiki_rows)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "path"),
    [
        (TextSource(), ""), (TextSource(100), ""), (TextSource(257), ""), (BooksSource(), ""),
        (JsonSource(), ""), (JsonSource(64), ""), (ParquetSource(), "rows.parquet"),
        (ParquetSource(100), "rows.parquet"), (CsvSource(), ""), (AutoSource(), ""),
        (WikiTextSource(), "wiki"), (WikiTextSource(50), "wiki"),
        (WholeSentencesSource(90), "wiki"),
    ],
)  # fmt: skip
def test_our_sources_keep_the_contract(folder: Path, source: Source, path: str) -> None:
    assert violations(source, SourceSpec(path=str(folder / path))) == []


def test_what_is_told_of_a_bad_source(folder: Path) -> None:
    class Bad(TextSource):
        n_read = 0

        def parts(self, spec: SourceSpec, file: SourceFile) -> list[Part]:
            return [Part(), Part()]

        def read(self, *_: Any) -> Iterator[RawDocument]:
            Bad.n_read += 1
            yield RawDocument(f"{Bad.n_read} \ud800")

        def files(self, spec: SourceSpec) -> list[SourceFile]:
            return [SourceFile("../b", p) for p in folder.glob("prose.txt*")]

    said = " ".join(violations(Bad(), SourceSpec(path=str(folder))))
    for part in ("twice", "portable", "pickled", "parts give other", "surrogates"):
        assert part in said


def test_a_source_that_raises_what_it_likes(folder: Path) -> None:
    class Loud(TextSource):
        def check(self, spec: SourceSpec, file: SourceFile) -> None:
            if not file.path.exists():
                raise OSError("gone")

        def read(self, spec: SourceSpec, file: SourceFile, part: Part) -> Iterator[RawDocument]:
            yield RawDocument(file.path.read_text())

    said = " ".join(violations(Loud(), SourceSpec(path=str(folder / "prose.txt"))))
    assert "noise: reading raises UnicodeDecodeError" in said
    assert "vanished: `check` raises" in said
