"""Rows of a suite's files: JSON, a line or a list, and Parquet, as the hubs publish them.

Called by `mulm.eval.scoring` before a model is asked anything. Needs no torch. Invariant: a row
that is passed on has the columns that the suite wants, with values of their types; the first that
does not ends it, with the file, the row and the column in the message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mulm.data.sources.base import Part, RawDocument, SourceFile, UnreadableError
from mulm.data.sources.formats import suffix_of
from mulm.data.sources.streams import lines, naming_damage, open_stream
from mulm.errors import DataError, SchemaError
from mulm.eval.suites.base import Row

Columns = Mapping[str, tuple[type, ...]]

_BATCH_ROWS = 256
_WORDS = {str: "text", int: "a number", list: "a list", dict: "an object"}


def read_rows(file: SourceFile, columns: Columns) -> Iterator[tuple[str, Row]]:
    """Each row, and how to call it: its file and number.

    Raises:
        SchemaError: a row is damaged, lacks a column, or has a value of another type there.
        DataError: the file is damaged, or holds no row.
    """
    number = 0
    try:
        for number, row in enumerate(_values(file), 1):
            where = f"{file.name!r}, row {number}"
            yield where, _checked(row, columns, where, file.name, number)
    except UnreadableError as error:
        raise DataError(
            f"{file.name!r} is damaged after row {number}: {error}", hint="get it again"
        ) from None
    if not number:
        raise DataError(f"{file.name!r} holds no rows", hint="is it the right file?")


def _values(file: SourceFile) -> Iterator[object]:
    suffix = suffix_of(file.name)
    if suffix == ".parquet":
        yield from _of_parquet(file.path)
    elif suffix == ".json" and _is_list(file.path):
        yield from _of_list(file.path)
    else:
        yield from _of_lines(file)


def _of_parquet(path: Path) -> Iterator[object]:
    with naming_damage(), path.open("rb") as content:
        for batch in pq.ParquetFile(content).iter_batches(_BATCH_ROWS, use_threads=False):
            yield from batch.to_pylist()


def _is_list(path: Path) -> bool:
    with open_stream(path) as stream:
        return stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _of_list(path: Path) -> Iterator[object]:
    with open_stream(path) as stream:
        try:
            yield from json.loads(stream.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UnreadableError(f"no JSON: {error}") from None


def _of_lines(file: SourceFile) -> Iterator[object]:
    number = 0
    for line in lines(file.path, Part()):
        if not isinstance(line, RawDocument) and line.isspace():
            continue
        number += 1
        yield _parsed(line, f"{file.name!r}, row {number}")


def _parsed(line: bytes | RawDocument, where: str) -> object:
    if isinstance(line, RawDocument):
        raise SchemaError(f"{where}: {line.reason}", hint="is it a file of JSON lines?")
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SchemaError(
            f"{where}: no JSON: {error}", hint="a row is a JSON object on a line of its own"
        ) from None


def _checked(row: object, columns: Columns, where: str, file: str, number: int) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise SchemaError(f"{where}: is no object of columns and values", file=file, row=number)
    missing = [name for name in columns if name not in row]
    if missing:
        raise SchemaError(
            f"{where}: has no column {', '.join(map(repr, missing))};"
            f" found: {', '.join(map(repr, row)) or 'none'}",
            hint="is it the file of another suite?",
            file=file, row=number, missing=missing, found=list(row),
        )  # fmt: skip
    for name, types in columns.items():
        if not isinstance(row[name], types) or isinstance(row[name], bool):
            wanted = " or ".join(_WORDS[kind] for kind in types)
            raise SchemaError(
                f"{where}: column {name!r} holds {type(row[name]).__name__}, not {wanted}",
                file=file, row=number, column=name,
            )  # fmt: skip
    return row
