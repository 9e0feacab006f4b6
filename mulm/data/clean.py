"""Cleaning: bytes to normal text, or a reason why not.

Called for every raw document, wherever it is read. All functions are pure. A rule is a
function that returns a reason to drop a document or None to keep it; a new rule is one
function and one entry in `TEXT_RULES`.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Callable

from mulm.data.recipe import CleanRules

Rule = Callable[[str, CleanRules], str | None]

_LINE_END = re.compile("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
_INVISIBLE = re.compile("[\ufeff\u200b\u00ad]")
_SPACE = re.compile("[\u00a0\u2007\u202f]")
_TRAILING = re.compile("[ \t]+\n")
_BLANK_LINES = re.compile("\n{4,}")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f]")
_SNIFFED_BYTES = 8192
_MAX_CONTROL_FRACTION = 0.001
_REPETITION_FROM_CHARS = 1024


def decode(content: bytes) -> tuple[str, str | None]:
    """The text of some bytes and None, or what can be shown of them and the reason to drop."""
    if b"\0" in content[:_SNIFFED_BYTES]:
        return "", "binary"
    try:
        return content.decode("utf-8"), None
    except UnicodeDecodeError:
        return content[:_SNIFFED_BYTES].decode("utf-8", "replace"), "invalid_utf8"


def normalise(text: str) -> str:
    r"""One form for texts that read the same.

    NFC; "\n" line ends; ordinary spaces, none at line ends; no invisible characters; at most
    two blank lines; one line end at the end. Lines stay as they are.
    """
    text = _SPACE.sub(" ", _INVISIBLE.sub("", _LINE_END.sub("\n", text)))
    text = unicodedata.normalize("NFC", text)
    text = _BLANK_LINES.sub("\n\n\n", _TRAILING.sub("\n", text + "\n"))
    text = text.strip("\n")
    return text.rstrip() + "\n" if text.strip() else ""


def judge(text: str, rules: CleanRules) -> str | None:
    """The first reason to drop a normalised text, or None."""
    for rule in TEXT_RULES:
        if reason := rule(text, rules):
            return reason
    return None


def empty(text: str, _rules: CleanRules) -> str | None:
    """Nothing but white space."""
    return None if text.strip() else "empty"


def control_characters(text: str, _rules: CleanRules) -> str | None:
    """More control characters than a stray one: not meant for reading."""
    count = len(_CONTROL.findall(text))
    return "control_characters" if count > len(text) * _MAX_CONTROL_FRACTION else None


def too_short(text: str, rules: CleanRules) -> str | None:
    """Too little to learn from."""
    return "too_short" if len(text) < rules.min_chars else None


def too_long_line(text: str, rules: CleanRules) -> str | None:
    """A line that nobody wrote by hand: minified code, encoded data."""
    longest = max(map(len, text.split("\n")))
    return "too_long_line" if longest > rules.max_line_chars else None


def repetition(text: str, rules: CleanRules) -> str | None:
    """The same again and again."""
    if len(text) < _REPETITION_FROM_CHARS:
        return None
    content = text.encode()
    small = len(zlib.compress(content, 1)) < len(content) * rules.min_compressed_fraction
    return "repetition" if small else None


TEXT_RULES: tuple[Rule, ...] = (empty, control_characters, too_short, too_long_line, repetition)
