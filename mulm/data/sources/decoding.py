"""Bytes and strings as documents: text where they are text, else a reject with its reason.

Called by the sources. Invariant: a document without a reason can be written as UTF-8.
"""

from __future__ import annotations

from mulm.data.sources.base import RawDocument
from mulm.data.sources.streams import SHOWN_BYTES, shown

_BOM = "\ufeff"


def from_bytes(content: bytes) -> RawDocument:
    """A document of UTF-8 bytes; a reject "binary" or "invalid_utf8" otherwise."""
    if b"\0" in content[:SHOWN_BYTES]:
        return RawDocument("", "binary")
    try:
        return RawDocument(content.decode("utf-8").removeprefix(_BOM))
    except UnicodeDecodeError:
        return RawDocument(shown(content), "invalid_utf8")


def from_text(text: str, messages: str = "") -> RawDocument:
    r"""A document of a string; a reject if it holds lone surrogates, which are no characters.

    They come from `\ud800` in JSON, and from bytes that were read with `surrogateescape`.
    """
    if is_valid(text) and is_valid(messages):
        return RawDocument(text, messages=messages)
    return RawDocument(printable(text[:SHOWN_BYTES]), "invalid_utf8")


def is_valid(text: str) -> bool:
    """Whether a string has UTF-8 bytes."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """The string with U+FFFD in the place of lone surrogates."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
