"""CSV and TSV with a header row: text, or instructions and answers, in columns.

Rows may hold line ends between quotes, so no byte in the middle tells where one begins: a file is
one part and is streamed. Invariant: a bad row ends itself alone.
"""

# ruff: noqa: ARG002 - a source need not use all that its contract hands it

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import Part, RawDocument, SourceFile, UnreadableError
from mulm.data.sources.folders import find_files
from mulm.data.sources.formats import suffix_of, suffixes_of
from mulm.data.sources.rows import RowReader, reject
from mulm.data.sources.streams import MAX_ROW_BYTES, lines


class CsvSource:
    """`.csv` and `.tsv`, also compressed."""

    def files(self, spec: SourceSpec) -> list[SourceFile]:
        """See `Source.files`."""
        return find_files(spec.path, suffixes_of("csv"))

    def check(self, spec: SourceSpec, file: SourceFile) -> None:
        """See `Source.check`: the header and the first rows."""
        rows = (row for row in _rows(file) if isinstance(row, dict))
        try:
            RowReader(spec.columns).check(file, rows)
        except UnreadableError:
            return

    def parts(self, spec: SourceSpec, file: SourceFile) -> list[Part]:
        """See `Source.parts`: one."""
        return [Part()]

    def read(self, spec: SourceSpec, file: SourceFile, part: Part) -> Iterator[RawDocument]:
        """See `Source.read`."""
        reader = RowReader(spec.columns)
        for row in _rows(file):
            yield row if isinstance(row, RawDocument) else reader.document(row)


def _rows(file: SourceFile) -> Iterator[dict[str, str] | RawDocument]:
    header: list[str] = []
    for cells in cell_rows(file):
        if isinstance(cells, RawDocument):
            yield cells
        elif not header:
            header = cells
        elif len(cells) == len(header):
            yield dict(zip(header, cells, strict=True))
        else:
            yield reject(cells, "bad_row")


def cell_rows(file: SourceFile) -> Iterator[list[str] | RawDocument]:
    """The cells of each row, the header's too; bytes that are no UTF-8 are lone surrogates."""
    # The limit is the process's, and smaller than many documents.
    csv.field_size_limit(MAX_ROW_BYTES)
    too_long: list[RawDocument] = []
    delimiter = "\t" if suffix_of(file.name) == ".tsv" else ","
    rows = csv.reader(_decoded(file, too_long), delimiter=delimiter)
    while True:
        try:
            cells = next(rows, None)
        except csv.Error as error:
            yield RawDocument("", "too_long_row" if "limit" in str(error) else "bad_row")
            continue
        yield from too_long
        too_long.clear()
        if cells is None:
            return
        if cells:
            yield cells


def _decoded(file: SourceFile, too_long: list[RawDocument]) -> Iterator[str]:
    is_first = True
    for line in lines(file.path, Part()):
        if isinstance(line, RawDocument):
            too_long.append(line)
            continue
        text = line.decode("utf-8", "surrogateescape")
        text = text.removeprefix("\ufeff") if is_first else text
        is_first = False
        if "\r" in text[:-2]:  # ends a row too, unless between quotes
            yield from io.StringIO(text, newline="")
        else:
            yield text
