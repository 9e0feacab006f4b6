"""Forms of `multipart/form-data` (RFC 7578), read as they come, however their bytes are cut.

Called by the routes that take files. Pure: bytes in, parts out. Invariant: memory does not grow
with the form; what is no form, or ends too early, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from mulm.errors import ConfigError

MAX_HEAD_BYTES = 64 << 10
"""What a part says of itself; most of it is the name of a file."""
MAX_PARTS = 32

_FORM = re.compile(r'multipart/form-data\s*;.*?\bboundary=(?:"([^"]+)"|([^;\s]+))', re.I | re.S)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PARAMETER = re.compile(r';\s*([\w*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"]*))(?=;|$)', re.S)
_ESCAPED = re.compile(r'\\(["\\])')
_MOST_TYPE_CHARS = 512
_HEAD_END = b"\r\n\r\n"


class FormError(ConfigError):
    """A body that is no form, or not the form that a route takes."""

    code = "invalid_value"


@dataclass(frozen=True, slots=True)
class Part:
    """A part begins; its bytes follow."""

    name: str
    filename: str | None
    """A label from elsewhere; None for a field that is no file."""


class FormReader:
    """Reads one form.

    Args:
        content_type: The header, which names the boundary.

    Raises:
        FormError: it is not that of a form.
    """

    def __init__(self, content_type: str) -> None:
        self._delimiter = b"\r\n--" + boundary_of(content_type).encode()
        self._left = bytearray(b"\r\n")  # the first boundary may stand at the very beginning
        self._state: Literal["before", "border", "head", "content", "end"] = "before"
        self._n_parts = 0
        self._waits = False  # whether nothing more can be said before more bytes come

    def feed(self, chunk: bytes) -> Iterator[Part | bytes]:
        """What more bytes of the body hold. Raises FormError."""
        self._left += chunk
        while self._state != "end":
            if self._state in ("before", "content"):
                yield from self._content()
            elif self._state == "border":
                self._border()
            elif (part := self._head()) is not None:
                yield part
            if self._waits:
                return
        self._left.clear()  # what stands behind the last boundary means nothing

    def close(self) -> None:
        """The body has ended. Raises FormError unless the form has."""
        if self._state != "end":
            raise FormError("the form has no end: its last boundary is missing")

    def _content(self) -> Iterator[bytes]:
        at = self._left.find(self._delimiter)
        self._waits = at < 0
        stop = max(0, len(self._left) - len(self._delimiter) + 1) if at < 0 else at
        content = bytes(self._left[:stop])
        del self._left[: stop if at < 0 else at + len(self._delimiter)]
        if content and self._state == "content":
            yield content
        if at >= 0:
            self._state = "border"

    def _border(self) -> None:
        """What follows a boundary: the end of the form, or of the line."""
        line = self._left.lstrip(b" \t")
        self._waits = len(line) < 2
        if self._waits:
            if len(self._left) > MAX_HEAD_BYTES:
                raise FormError("a boundary of the form has no end")
            return
        if line[:2] == b"--" and self._left[:2] == b"--":
            self._state = "end"
        elif line[:2] == b"\r\n":
            # The line end stays: a head may be empty, and ends with an empty line.
            self._left, self._state = line, "head"
        else:
            raise FormError("the form's boundary stands inside of a line")

    def _head(self) -> Part | None:
        at = self._left.find(_HEAD_END)
        self._waits = at < 0
        if max(at, len(self._left) if at < 0 else 0) > MAX_HEAD_BYTES:
            raise FormError("a part of the form has too long a head")
        if at < 0:
            return None
        head = bytes(self._left[:at])
        del self._left[: at + len(_HEAD_END)]
        self._n_parts += 1
        if self._n_parts > MAX_PARTS:
            raise FormError(f"the form has more than {MAX_PARTS} parts")
        self._state = "content"
        return _part(head)


def boundary_of(content_type: str) -> str:
    """What stands between the parts. Raises FormError."""
    found = _FORM.match(content_type[:_MOST_TYPE_CHARS])
    boundary = (found.group(1) or found.group(2)) if found else ""
    if not _BOUNDARY.fullmatch(boundary):
        raise FormError(
            "the body is not a form", hint="send multipart/form-data, with its boundary"
        )
    return boundary


def _part(head: bytes) -> Part:
    lines = head.decode("utf-8", "replace").split("\r\n")
    fields = dict(_field(line) for line in lines if line)
    if fields.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise FormError("a part of the form is encoded", hint="send its bytes as they are")
    kind, _, rest = fields.get("content-disposition", "").partition(";")
    values = dict(_parameters(f";{rest}"))
    if kind.strip().lower() != "form-data" or "name" not in values:
        raise FormError("a part of the form has no name")
    return Part(values["name"], _extended(values.get("filename*")) or values.get("filename"))


def _parameters(text: str) -> Iterator[tuple[str, str]]:
    place = 0
    while place < len(text):
        found = _PARAMETER.match(text, place)
        if not found:
            raise FormError("a part of the form has a head that cannot be read")
        name, quoted, bare = found.groups()
        yield name.lower(), bare.strip() if quoted is None else _ESCAPED.sub(r"\1", quoted)
        place = found.end()


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def _extended(value: str | None) -> str | None:
    """A name as RFC 8187 spells it: `UTF-8''a%20name`."""
    charset, _, text = (value or "").partition("'")
    if charset.lower() != "utf-8":
        return None
    return unquote(text.partition("'")[2], errors="replace") or None
