"""Any known format, by each file's suffix: what a folder of everything is read with.

Invariant: a file is read as the source of its format alone would read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import Part, RawDocument, Source, SourceFile
from mulm.data.sources.delimited import CsvSource
from mulm.data.sources.folders import find_files
from mulm.data.sources.formats import FORMATS, suffix_of
from mulm.data.sources.jsonl import JsonSource
from mulm.data.sources.parquet import ParquetSource
from mulm.data.sources.text import TextSource

BY_FORMAT: Mapping[str, type[Source]] = MappingProxyType(
    {"text": TextSource, "jsonl": JsonSource, "csv": CsvSource, "parquet": ParquetSource}
)
"""The formats that suffixes name."""


class AutoSource:
    """Text, Markdown, JSON, CSV and Parquet, mixed; a file of an unknown suffix is text."""

    def files(self, spec: SourceSpec) -> list[SourceFile]:
        """See `Source.files`."""
        return find_files(spec.path, FORMATS)

    def check(self, spec: SourceSpec, file: SourceFile) -> None:
        """See `Source.check`."""
        _source(file).check(spec, file)

    def parts(self, spec: SourceSpec, file: SourceFile) -> list[Part]:
        """See `Source.parts`."""
        return _source(file).parts(spec, file)

    def read(self, spec: SourceSpec, file: SourceFile, part: Part) -> Iterator[RawDocument]:
        """See `Source.read`."""
        return _source(file).read(spec, file, part)


def _source(file: SourceFile) -> Source:
    return BY_FORMAT[FORMATS.get(suffix_of(file.name), "text")]()
