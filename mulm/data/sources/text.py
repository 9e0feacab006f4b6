"""Plain text and Markdown: one document a file, or one for each stretch of a long one.

A long file is cut where a paragraph ends. Invariant: the cuts depend on the bytes and `part_bytes`
alone, so a compressed file gives the documents of the plain one; a damaged one its whole lines.
"""

# ruff: noqa: ARG002 - a source need not use all that its contract hands it

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import PART_BYTES, Part, RawDocument, SourceFile
from mulm.data.sources.decoding import from_bytes
from mulm.data.sources.folders import find_files
from mulm.data.sources.formats import suffixes_of
from mulm.data.sources.streams import DAMAGE, Stream, byte_parts, fill, open_stream

_WINDOW_BYTES = 64 << 10
"""How far after its nominal place a cut looks for the end of a paragraph."""

_BREAK = re.compile(rb"\n[ \t\r]*\n\s*|\r\r")


@dataclass(frozen=True, slots=True)
class TextSource:
    """`.txt`, `.text` and `.md`, also compressed."""

    part_bytes: int = PART_BYTES

    def files(self, spec: SourceSpec) -> list[SourceFile]:
        """See `Source.files`."""
        return find_files(spec.path, suffixes_of("text"))

    def check(self, spec: SourceSpec, file: SourceFile) -> None:
        """Text has no schema."""

    def parts(self, spec: SourceSpec, file: SourceFile) -> list[Part]:
        """See `Source.parts`: stretches of bytes."""
        return byte_parts(file.path, self.part_bytes)

    def read(self, spec: SourceSpec, file: SourceFile, part: Part) -> Iterator[RawDocument]:
        """See `Source.read`."""
        for content in self.chunks(file, part):
            for found in _documents(content):
                yield replace(found, may_be_cut=True)

    def chunks(self, file: SourceFile, part: Part) -> Iterator[bytes]:
        """The bytes of each document of a part."""
        with open_stream(file.path, part.start) as stream:
            content = bytearray()
            try:
                yield from _chunks(stream, part, self.part_bytes, content)
            except DAMAGE:
                if whole := b"" if part.start else _whole_lines(content):
                    yield whole
                raise


def _documents(content: bytes) -> Iterator[RawDocument]:
    """A stretch of text; where it holds bytes that are none, only their paragraphs are rejects."""
    found = from_bytes(content)
    if found.reason != "invalid_utf8":
        yield found
        return
    for _, paragraphs in groupby(_paragraphs(content), key=_is_utf8):
        yield from_bytes(b"".join(paragraphs))


def _paragraphs(content: bytes) -> Iterator[bytes]:
    """Cut behind each break between paragraphs."""
    start = 0
    for found in _BREAK.finditer(content):
        yield content[start : found.end()]
        start = found.end()
    yield content[start:]


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _chunks(stream: Stream, part: Part, part_bytes: int, content: bytearray) -> Iterator[bytes]:
    """Cut at the paragraph after each multiple of `part_bytes`.

    Args:
        stream: Stands at the start of the part.
        part: What to read.
        part_bytes: Its size.
        content: What was read and not yielded; also when reading raises.
    """
    window_bytes = min(_WINDOW_BYTES, part_bytes // 2)
    fill(content, stream, window_bytes)
    skipped = _cut(content) if part.start else 0  # the part before this one has these
    del content[:skipped]
    place = part.start + skipped
    nominal = part.start
    while part.stop is None or nominal < part.stop:
        nominal += part_bytes
        wanted = nominal + window_bytes - place
        fill(content, stream, wanted - len(content))
        if len(content) <= nominal - place:
            if content or not place:
                yield bytes(content)
            return
        end = nominal - place + _cut(content[nominal - place : wanted])
        taken = bytes(content[:end])
        del content[:end]
        place += end
        yield taken


def _whole_lines(content: bytearray) -> bytes:
    """All but the last line, which damage cut; of a single line all but its last word."""
    end = content.rfind(b"\n") + 1 or content.rfind(b" ") + 1
    return bytes(content[:end])


def _cut(window: bytearray) -> int:
    """Where in a window a document may begin: after a paragraph, a line, or within no character."""
    if found := _BREAK.search(window):
        return found.end()
    if line_end := window.find(b"\n") + 1:
        return line_end
    begins = (n for n, byte in enumerate(window[:4]) if byte & 0xC0 != 0x80)
    return next(begins, len(window) if len(window) < 4 else 0)
