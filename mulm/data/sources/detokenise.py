"""Text as it is typed out of text with a space around every token.

Called by `wikitext`. Rules, no more: what they cannot know, such as which of two spaced marks
stood alone, stays spaced. Invariant: no word is changed, only spaces and WikiText's `@` go.
"""

from __future__ import annotations

import re

_SPLIT = re.compile(r" @([-,.])@ ")
_DOUBLE = re.compile(r'"(?<!\S")(?!\S)')
_SINGLE = re.compile(r"'(?<!\S')(?!\S)")
_BEFORE = re.compile(r" (?=(?:[,.;:!?%)\]}′″]|\.\.\.|'(?:[stmdS]|ve|re|ll)|n't)(?:[ \"']|$))")
_AFTER = re.compile(r"([(\[{$£€¥])(?<![^\s\"'(\[{].) ")
_AROUND = re.compile(r" ([—‑/]) ")
_RANGE = re.compile(r" – (?<=\d – )(?=\d)")
_DEGREES = re.compile(r" ° (?=[CF]\b)")
_DEGREE = re.compile(r" °(?= |$)")


def detokenise(line: str) -> str:
    """A paragraph without the spaces that its tokens brought."""
    line = _SPLIT.sub(r"\1", line)
    line = _quoted(line, _DOUBLE, '"')
    if _SINGLE.search(line):
        line = _quoted(_possessive(line), _SINGLE, "'")
    line = _AFTER.sub(r"\1", _BEFORE.sub("", line))
    line = _RANGE.sub("–", _AROUND.sub(r"\1", line))
    return _DEGREE.sub("°", _DEGREES.sub(" °", line))


def _quoted(line: str, mark: re.Pattern[str], quote: str) -> str:
    """Marks open and close in turn; a last one without another stays alone."""
    pieces = mark.split(line)
    if len(pieces) == 1:
        return line
    written = [pieces[0].rstrip()]
    for number, piece in enumerate(pieces[1:], 1):
        opens = number % 2 == 1
        is_alone = opens and number == len(pieces) - 1
        inner = piece.rstrip() if is_alone else piece.strip()
        written.append(f" {quote}{inner}" if opens else f"{quote} {inner}")
    return "".join(written).strip()


def _possessive(line: str) -> str:
    """`the dogs ' tails`: after an s, and with no quotation to close."""
    return re.sub(r" '(?<=s ')(?= )", "'", line) if len(_SINGLE.findall(line)) % 2 else line
