"""WikiText-2 and -103: the articles put together again out of their lines.

Their files hold a line a row, as plain text (`wiki.train.tokens`), as rows of Parquet, or as text
between quotes. A title such as ` = Title = ` between blank lines begins an article. Invariant: a
document is one whole article, with its headings as Markdown has them and its text as it is typed.
"""

# ruff: noqa: ARG002 - a source need not use all that its contract hands it

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import ClassVar

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import PART_BYTES, Part, RawDocument, SourceFile, UnreadableError
from mulm.data.sources.decoding import from_bytes
from mulm.data.sources.delimited import cell_rows
from mulm.data.sources.detokenise import detokenise
from mulm.data.sources.folders import find_files
from mulm.data.sources.formats import suffix_of
from mulm.data.sources.parquet import ParquetSource
from mulm.data.sources.rows import RowReader
from mulm.data.sources.streams import byte_parts, open_stream, placed_lines

UNKNOWN = "<unk>"
"""What the token files have in the place of rare words; the raw files have the words."""

_SUFFIXES = (".tokens", ".raw", ".txt", ".parquet")
_LOOKBACK_BYTES = 4096
"""Enough to see whether the line before is blank."""

_TITLE = re.compile(rb" = (?!= )\S.*(?<! =) = \s*")
_HEADING = re.compile(r"((?:= )+)(.+?)((?: =)+)")
_SENTENCE_END = re.compile(r" (?<= [.!?] )(?!['\")])")

PlacedLine = tuple[int, bytes | RawDocument]


@dataclass(frozen=True, slots=True)
class WikiTextSource:
    """Articles as they are; in the token files `<unk>` stands for rare words, and stays."""

    drops_unknown: ClassVar[bool] = False
    part_bytes: int = PART_BYTES

    def files(self, spec: SourceSpec) -> list[SourceFile]:
        """See `Source.files`."""
        return find_files(spec.path, _SUFFIXES)

    def check(self, spec: SourceSpec, file: SourceFile) -> None:
        """See `Source.check`: Parquet files need their column of lines."""
        if _is_parquet(file):
            ParquetSource().check(spec, file)

    def parts(self, spec: SourceSpec, file: SourceFile) -> list[Part]:
        """See `Source.parts`: articles by the bytes where their titles begin."""
        if _is_parquet(file) or _is_quoted(file):
            return [Part()]
        return byte_parts(file.path, self.part_bytes)

    def read(self, spec: SourceSpec, file: SourceFile, part: Part) -> Iterator[RawDocument]:
        """See `Source.read`."""
        for article in _articles(_lines(spec, file, part), part):
            if isinstance(article, RawDocument):
                yield article
                continue
            found = from_bytes(b"".join(article))
            if found.reason:
                yield found
            elif text := _written(found.text, self.drops_unknown):
                yield RawDocument(text)


class WholeSentencesSource(WikiTextSource):
    """Articles without the sentences and headings in which `<unk>` stands for a word."""

    __slots__ = ()
    drops_unknown: ClassVar[bool] = True


def _is_parquet(file: SourceFile) -> bool:
    return suffix_of(file.name) == ".parquet"


def _is_quoted(file: SourceFile) -> bool:
    try:
        with open_stream(file.path) as stream:
            return stream.read(1) == b'"'
    except UnreadableError:
        return False


def _lines(spec: SourceSpec, file: SourceFile, part: Part) -> Iterator[PlacedLine]:
    if _is_parquet(file):
        return enumerate(_parquet_lines(spec, file))
    if _is_quoted(file):
        return enumerate(_quoted_lines(file))
    return placed_lines(file.path, max(part.start - _LOOKBACK_BYTES, 0))


def _parquet_lines(spec: SourceSpec, file: SourceFile) -> Iterator[bytes | RawDocument]:
    name = RowReader(spec.columns).name_of("text")
    for value in ParquetSource().column(file, name):
        if isinstance(value, str | bytes):
            yield value.encode() if isinstance(value, str) else value
        else:
            yield RawDocument("", "null_text" if value is None else "bad_text")


def _quoted_lines(file: SourceFile) -> Iterator[bytes | RawDocument]:
    for cells in cell_rows(file):
        if isinstance(cells, RawDocument):
            yield cells
        else:
            yield cells[0].encode("utf-8", "surrogateescape")


def _articles(lines: Iterator[PlacedLine], part: Part) -> Iterator[list[bytes] | RawDocument]:
    """The lines of each article whose title begins in the part, and rejects among them."""
    article: list[bytes] | None = None if part.start else []
    is_after_blank = not part.start
    end: PlacedLine = (0, b"")
    for (place, line), (_, following) in pairwise(chain(lines, (end,))):
        if isinstance(line, RawDocument):
            if article is not None:
                yield line
            is_after_blank = False
            continue
        is_title = is_after_blank and _is_blank(following) and bool(_TITLE.fullmatch(line))
        is_after_blank = _is_blank(line)
        if is_title and place >= part.start:
            if article:
                yield article
            if part.stop is not None and place >= part.stop:
                return
            article = []
        if article is not None:
            article.append(line if line.endswith(b"\n") else line + b"\n")
    if article:
        yield article


def _is_blank(line: bytes | RawDocument) -> bool:
    return isinstance(line, bytes) and not line.strip()


def _written(text: str, drops_unknown: bool) -> str:
    lines = [line.strip() for line in text.split("\n")]
    if drops_unknown:
        lines = [_known(line) for line in lines]
    paragraphs = [_heading(line) or detokenise(line) for line in lines if line]
    return "\n\n".join(paragraphs) + "\n" if paragraphs else ""


def _known(line: str) -> str:
    if UNKNOWN not in line:
        return line
    if _HEADING.fullmatch(line):
        return ""
    return " ".join(s for s in _SENTENCE_END.split(line) if UNKNOWN not in s)


def _heading(line: str) -> str:
    found = _HEADING.fullmatch(line)
    if not found or len(found[1]) != len(found[3]):
        return ""
    return f"{'#' * (len(found[1]) // 2)} {detokenise(found[2])}"
