"""Text for a terminal: what would move its cursor, ring its bell or hide words becomes visible.

Called by whatever shows a person text of a corpus, a model, a config or another program. Light: the
command line imports it. Invariant: what `harmless` returns changes no terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TextIO

from mulm.errors import DataError

# Control characters but line ends and tabs; what turns, joins or hides text unseen: directions,
# line separators, byte order marks, tags; halves of characters that no terminal can write.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def harmless(text: str) -> str:
    """The text with everything visible that would move a cursor, ring a bell or turn a line."""
    return _HARMFUL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)  # the pictures of control characters
    return "\u2421" if code == 0x7F else f"\\u{{{code:x}}}"


def written(text: str) -> str:
    """The same text, that was given on a command line. Raises DataError where it is no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _not_utf8() from None
    return text


def read_text(source: TextIO) -> str:
    """All that a pipe says. Raises DataError where it is no UTF-8."""
    try:
        return written(source.read())
    except UnicodeDecodeError:
        raise _not_utf8() from None


def lines_of(source: TextIO) -> Iterator[str]:
    """What a pipe says, line by line. Raises DataError at one that is no UTF-8."""
    try:
        for line in source:
            yield written(line)
    except UnicodeDecodeError:
        raise _not_utf8() from None


def _not_utf8() -> DataError:
    return DataError("what was typed or piped is no UTF-8 text", hint="iconv -t UTF-8 makes it so")
