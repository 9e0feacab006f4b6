"""The rules that every document passes: something to read, of a bearable shape.

Called by `mulm.data.clean.Cleaner` for each batch. The bounds are those of `CleanRules`. Cheap
conditions decide for nearly all documents; the exact count is made for the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mulm.data.rules import CleanRules

CONTROL = bytes({*range(0x20), 0x7F} - {*b"\t\n\v\f\r\x1c\x1d\x1e"})
"""Control characters that are neither white space nor line ends."""
MAX_CONTROL_FRACTION = 0.001
REPETITION_FROM_CHARS = 1024


def basic_reasons(texts: Sequence[str], rules: CleanRules) -> list[str]:
    """For each text the first reason to drop it, or ""."""
    has_control = _has_control(b"".join([text.encode() for text in texts]))
    return [_reason(text, rules, has_control) for text in texts]


def repeated_fraction(text: str) -> float:
    """The part of a text's characters that stands in lines which an earlier line equals.

    White space around lines does not count, and so neither do blank lines.
    """
    lines = [line.strip() for line in text.split("\n")]
    n_chars = sum(map(len, lines))
    return (n_chars - sum(map(len, set(lines)))) / n_chars if n_chars else 0.0


def _reason(text: str, rules: CleanRules, has_control: bool) -> str:
    if not text or text.isspace():
        return "empty"
    if has_control and _is_full_of_control(text):
        return "control_characters"
    if len(text) < rules.min_chars:
        return "too_short"
    if len(text) > rules.max_line_chars and _longest_line(text) > rules.max_line_chars:
        return "too_long_line"
    if len(text) > REPETITION_FROM_CHARS and _is_repetitive(text, rules.max_repeated_fraction):
        return "repetition"
    return ""


def _has_control(content: bytes) -> bool:
    view = np.frombuffer(content, dtype=np.uint8)
    is_low = (view < 0x09) | (view - np.uint8(0x0E) < 0x12)  # 0x0E to 0x1F: less wraps around
    return bool(is_low.any()) or b"\x7f" in content


def _is_full_of_control(text: str) -> bool:
    content = text.encode()
    n_control = len(content) - len(content.translate(None, CONTROL))
    return n_control > len(text) * MAX_CONTROL_FRACTION


def _longest_line(text: str) -> int:
    return max(map(len, text.split("\n")))


def _is_repetitive(text: str, max_fraction: float) -> bool:
    # If the first lines alone hold enough different text, the others cannot change the verdict.
    needed_chars = (1 - max_fraction) * len(text) + 1
    end = text.find("\n", int(needed_chars * 1.25))
    if end >= 0:
        different = set(map(str.strip, text[:end].split("\n")))
        if sum(map(len, different)) > needed_chars:
            return False
    return repeated_fraction(text) > max_fraction
