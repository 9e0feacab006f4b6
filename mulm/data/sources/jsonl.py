"""JSON: an object a line, or one list of objects.

`.jsonl` and `.ndjson` have lines, `.json` mostly a list; what a file begins with decides, not its
name. Invariant: a damaged line ends itself alone; a damaged list ends there.
"""

# ruff: noqa: ARG002 - a source need not use all that its contract hands it

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import PART_BYTES, Part, RawDocument, SourceFile, UnreadableError
from mulm.data.sources.decoding import printable
from mulm.data.sources.folders import find_files
from mulm.data.sources.formats import suffixes_of
from mulm.data.sources.rows import RowReader, check_rows
from mulm.data.sources.streams import (
    MAX_ROW_BYTES,
    Stream,
    byte_parts,
    lines,
    open_stream,
    read_before_damage,
    shown,
)

_BLOCK_BYTES = 1 << 18
_HEAD_BYTES = 4096
_PRETTY = re.compile(rb"\s*(\[|\{\s*\n)")
_BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class JsonSource:
    """`.jsonl`, `.ndjson` and `.json`, also compressed: text, or conversations, in columns."""

    part_bytes: int = PART_BYTES

    def files(self, spec: SourceSpec) -> list[SourceFile]:
        """See `Source.files`."""
        return find_files(spec.path, suffixes_of("jsonl"))

    def check(self, spec: SourceSpec, file: SourceFile) -> None:
        """See `Source.check`: the first rows; a damaged file is no matter of its schema."""
        try:
            check_rows(spec, file, _good(_items(file, Part())))
        except UnreadableError:
            return

    def parts(self, spec: SourceSpec, file: SourceFile) -> list[Part]:
        """See `Source.parts`: lines by the bytes where they begin."""
        try:
            return [Part()] if _is_list(file) else byte_parts(file.path, self.part_bytes)
        except UnreadableError:
            return [Part()]

    def read(self, spec: SourceSpec, file: SourceFile, part: Part) -> Iterator[RawDocument]:
        """See `Source.read`."""
        reader = RowReader(spec.columns)
        for item in _items(file, part):
            yield item if isinstance(item, RawDocument) else reader.document(item)


def _items(file: SourceFile, part: Part) -> Iterator[object]:
    """Values as they were parsed, and rejects where they could not be."""
    if _is_list(file):
        with open_stream(file.path) as stream:
            yield from _listed(stream)
    else:
        for line in lines(file.path, part):
            if isinstance(line, RawDocument):
                yield line
            elif not line.isspace():
                yield _parsed(line)


def _good(items: Iterator[object]) -> Iterator[object]:
    return (item for item in items if not isinstance(item, RawDocument))


def _is_list(file: SourceFile) -> bool:
    with open_stream(file.path) as stream:
        head = stream.read(_HEAD_BYTES).removeprefix(codecs.BOM_UTF8)
    return bool(_PRETTY.match(head))


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return RawDocument(shown(line), "invalid_utf8")
    except (ValueError, RecursionError):
        return RawDocument(shown(line), "invalid_json")


def _listed(stream: Stream) -> Iterator[object]:
    """The values of a list, or values one after another, without holding all of them."""
    decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
    parse = json.JSONDecoder().raw_decode
    text = decode(read_before_damage(stream, _BLOCK_BYTES)).lstrip()
    is_list, place = text.startswith("["), int(text.startswith("["))
    while True:
        between = _BETWEEN.match(text, place)
        place = between.end() if between else place
        if is_list and text[place : place + 1] == "]":
            return _require_end(text[place + 1 :], stream)
        try:
            value, place = parse(text, place)
        except (ValueError, RecursionError) as error:
            # Perhaps only its end is missing: read as much again.
            left = text[place:]
            is_bounded = len(left) < MAX_ROW_BYTES
            more = read_before_damage(stream, max(_BLOCK_BYTES, len(left))) if is_bounded else b""
            if not more:
                if left or is_list:
                    raise UnreadableError(_what_ended(left, error)) from None
                return
            text, place = left + decode(more), 0
        else:
            yield value


def _require_end(rest: str, stream: Stream) -> None:
    if rest.strip() or stream.read(_BLOCK_BYTES).strip():
        raise UnreadableError("something follows the JSON list")


def _what_ended(left: str, error: Exception) -> str:
    if not left:
        return "the JSON list has no end"
    return f"invalid JSON: {getattr(error, 'msg', 'too deep')}: {printable(left[:80])!r}"
