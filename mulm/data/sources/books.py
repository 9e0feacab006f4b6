"""Books of Project Gutenberg: what is wrapped around them removed, their chapters kept.

Header, licence and footer are known by the marker lines that the archive has written over the
years; credits and transcribers' notes by how they begin. Invariant: only whole lines go, and of a
text without any of these nothing does.
"""

# ruff: noqa: ARG002 - a source need not use all that its contract hands it

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import PART_BYTES, Part, RawDocument, SourceFile
from mulm.data.sources.decoding import from_bytes
from mulm.data.sources.text import TextSource

_HEAD_CHARS = 40_000
"""The old header, all of the licence in it, is some 15,000 long."""

_TAIL_CHARS = 60_000
_CREDIT_CHARS = 8_000
_GUTENBERG = r"(?:the |this )?project gutenberg"

_LINE = "(?im)^[ \t]*"
_STARTS = (
    re.compile(_LINE + rf"\*{{3}} ?start of {_GUTENBERG}[^*]*(?:\*{{3}}|\n).*\n?"),
    re.compile(_LINE + r"\*?end[ *]*the small print!?[^\n]*\n(?:[^\n]*\*end\*[^\n]*\n)?"),
    re.compile(_LINE + r"\**start\**the small print! for public domain[^\n]*\n"),
)
_ENDS = (
    re.compile(_LINE + rf"\*{{3}} ?end of {_GUTENBERG}"),
    re.compile(_LINE + rf"(?:the )?end of {_GUTENBERG}"),
    re.compile(_LINE + r"\*{3} ?start: full license \*{3}"),
    re.compile(_LINE + r"(?:this|updated) editions? will (?:replace|be named)"),
    re.compile(_LINE + r"\*+ this file should be named "),
)
_OLD_HEADER = re.compile(_LINE + r"\**(?:the )?project gutenberg(?:'s|’s| e-?(?:text|book))")
_LATIN = re.compile(rb"(?im)^character set encoding: *(?:iso-?(?:latin|8859)-?1|windows-1252)\b")

_CREDIT = re.compile(
    r"(?i)(?:this )?(?:e-?text|e-?book|file|produced|prepared|transcribed|html version|scanned)"
    r"[^\n]{0,80}?\bby\b.*|produced from (?:images|scans).*|\[?note: project gutenberg .*",
    re.DOTALL,
)
_NOTE = re.compile(
    r"(?is)\[\s*transcriber(?:'s|s'|s|’s|s’)? note[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*\]"
)
_NOTE_TITLE = re.compile(r"(?i)[\s+|*_=-]*transcriber(?:'s|s'|s|’s|s’)? notes?\b.*", re.DOTALL)
_MAX_NOTE_CHARS = 3000
_PICTURE = re.compile(r"(?im)^[ \t]*\[(?:illustration|blank page)\][ \t]*\n")
"""Where a picture was; one with a caption is told by words and stays."""

_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")


@dataclass(frozen=True, slots=True)
class BooksSource:
    """`.txt`, also compressed: a book a file."""

    part_bytes: int = PART_BYTES

    def files(self, spec: SourceSpec) -> list[SourceFile]:
        """See `Source.files`."""
        return self._text.files(spec)

    def check(self, spec: SourceSpec, file: SourceFile) -> None:
        """Books have no schema."""

    def parts(self, spec: SourceSpec, file: SourceFile) -> list[Part]:
        """See `Source.parts`: one, unless it is no book."""
        return self._text.parts(spec, file)

    def read(self, spec: SourceSpec, file: SourceFile, part: Part) -> Iterator[RawDocument]:
        """See `Source.read`."""
        for content in self._text.chunks(file, part):
            found = _decoded(content)
            text = found.text if found.reason else strip_gutenberg(found.text)
            yield replace(found, text=text, may_be_cut=True)

    @property
    def _text(self) -> TextSource:
        return TextSource(self.part_bytes)


def strip_gutenberg(text: str) -> str:
    """A book without header, licence, credits and transcribers' notes."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text, had_header = _without_header(text)
    text, had_footer = _without_footer(text)
    if had_header or had_footer or _credits_first(text):
        text = _without_credits(text)
    return _without_notes(_PICTURE.sub("", text))


def _decoded(content: bytes) -> RawDocument:
    found = from_bytes(content)
    if found.reason == "invalid_utf8" and _LATIN.search(content[:_HEAD_CHARS]):
        return RawDocument(content.decode("cp1252", "replace"))
    return found


def _without_header(text: str) -> tuple[str, bool]:
    head = text[:_HEAD_CHARS]
    ends = [found.end() for start in _STARTS for found in start.finditer(head)]
    if ends:
        return text[max(ends) :].lstrip("\n"), True
    if _OLD_HEADER.match(head.lstrip("\ufeff\n ")):
        # A header without its end: its first paragraph names the archive and goes.
        _, _, rest = text.lstrip("\n").partition("\n\n")
        return (rest, True) if rest else (text, False)
    return text, False


def _without_footer(text: str) -> tuple[str, bool]:
    begin = max(len(text) - _TAIL_CHARS, 0)
    tail = text[begin:]
    starts = [found.start() for end in _ENDS if (found := end.search(tail))]
    if not starts:
        return text, False
    return text[: begin + min(starts)].rstrip() + "\n", True


def _credits_first(text: str) -> bool:
    return bool(
        _CREDIT.fullmatch(_PARAGRAPH.split(text.lstrip("\n")[:_CREDIT_CHARS], 1)[0].strip())
    )


def _without_credits(text: str) -> str:
    """Who scanned and proofread it, in a paragraph before the book begins."""
    place = 0
    for _ in range(4):
        found = _PARAGRAPH.search(text, place)
        if not found or found.start() > _CREDIT_CHARS:
            break
        paragraph = text[place : found.start()].strip()
        if paragraph and len(paragraph) < 800 and _CREDIT.fullmatch(paragraph):
            return text[:place] + text[found.end() :]
        place = found.end()
    return text


def _without_notes(text: str) -> str:
    """Transcribers' notes: in brackets anywhere, as a paragraph of their own at either end."""
    text = _NOTE.sub("", text) if "ranscriber" in text or "RANSCRIBER" in text else text
    head, _, rest = text.lstrip("\n").partition("\n\n\n")
    if rest and len(head) < _MAX_NOTE_CHARS and _NOTE_TITLE.fullmatch(head):
        text = rest.lstrip("\n")
    body, _, last = text.rstrip().rpartition("\n\n\n")
    if body and len(last) < _MAX_NOTE_CHARS and _NOTE_TITLE.fullmatch(last):
        text = body.rstrip() + "\n"
    return text
