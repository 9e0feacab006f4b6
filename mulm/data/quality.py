"""The published families of quality rules, over a batch of texts.

Called by `mulm.data.clean.Cleaner`, a family at a time in the order of the recipe. A family is a
function that returns for each text the name of the first rule that it breaks, or "". They were
made for English web pages: `c4` for one paragraph a line, and none for scripts without spaces.
The family "c4", which also changes texts, is in `mulm.data.c4`; "gopher_repetition" in
`mulm.data.repetition`. Invariant: a verdict depends on its text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mulm.data.repetition import duplicate_chars, gopher_repetition
from mulm.data.texts import Bytes, Flags, Numbers, Texts

Family = Callable[[Texts], list[str]]
Fractions = np.ndarray[tuple[int], np.dtype[np.float64]]

GOPHER_WORDS = (50, 100_000)
GOPHER_MEAN_WORD_CHARS = (3, 10)
GOPHER_MAX_SYMBOLS_BY_WORD = 0.1
GOPHER_MAX_BULLET_LINES = 0.9
GOPHER_MAX_ELLIPSIS_LINES = 0.3
GOPHER_MIN_WORDS_WITH_LETTER = 0.8
GOPHER_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
GOPHER_MIN_STOP_WORDS = 2
_BULLETS = ("•", "-")
_ELLIPSES = ("...", "…")

FINEWEB_MIN_ENDED_LINES = 0.12
FINEWEB_MAX_SHORT_LINES = 0.67
FINEWEB_SHORT_LINE_CHARS = 30
FINEWEB_MAX_DUPLICATE_CHARS = 0.01
FINEWEB_MAX_LINES_BY_WORD = 0.3
_ENDS = (".", "!", "?", "。", "！", "？", "．", "।", "॥", "؟", "۔", "։", "።")

_KINDS = bytes(
    0 if code <= 0x20 else 2 if code >= 0x80 or chr(code).isalpha() else 1 for code in range(256)
)
"""Of each byte: 0 for white space, 2 for letters, 1 for the rest."""


def gopher(texts: Texts) -> list[str]:
    """Rae et al. 2021, "Scaling Language Models", appendix A.1.1, "Quality Filtering".

    Words are those of `mulm.data.texts`; only for "words with a letter" are they what stands
    between white space, so that lone symbols count as words without one. Blank lines are no lines.
    """
    n_words = texts.words.counts
    mean_chars = _parts(texts.words.sums(texts.word_chars), n_words)
    n_hashes, n_ellipses = _counts(texts, ("#",)), _counts(texts, _ELLIPSES)
    bullets = _line_parts(texts, lambda line: line.startswith(_BULLETS))
    ellipsis_ends = _line_parts(texts, lambda line: line.endswith(_ELLIPSES))
    return first_broken(
        len(texts),
        {
            "gopher_too_few_words": n_words < GOPHER_WORDS[0],
            "gopher_too_many_words": n_words > GOPHER_WORDS[1],
            "gopher_short_words": mean_chars < GOPHER_MEAN_WORD_CHARS[0],
            "gopher_long_words": mean_chars > GOPHER_MEAN_WORD_CHARS[1],
            "gopher_hashes": _parts(n_hashes, n_words) > GOPHER_MAX_SYMBOLS_BY_WORD,
            "gopher_ellipses": _parts(n_ellipses, n_words) > GOPHER_MAX_SYMBOLS_BY_WORD,
            "gopher_bullets": bullets > GOPHER_MAX_BULLET_LINES,
            "gopher_ellipsis_lines": ellipsis_ends > GOPHER_MAX_ELLIPSIS_LINES,
            "gopher_few_letters": _words_with_letter(texts) < GOPHER_MIN_WORDS_WITH_LETTER,
            "gopher_stop_words": _n_stop_words(texts) < GOPHER_MIN_STOP_WORDS,
        },
    )


def fineweb(texts: Texts) -> list[str]:
    """Penedo et al. 2024, "The FineWeb Datasets", section 3.6: its custom filters.

    Blank lines are no lines. The rate of line ends by words is that of its published pipeline.
    """
    lines = texts.lines
    n_line_chars = np.array([sum(map(len, own)) for own in lines], dtype=np.int64)
    n_ends = np.array([text.count("\n") for text in texts.texts], dtype=np.int64)
    repeated = np.array([duplicate_chars(own) for own in lines], dtype=np.int64)
    return first_broken(
        len(texts),
        {
            "fineweb_line_ends": _line_parts(texts, lambda line: line.endswith(_ENDS))
            < FINEWEB_MIN_ENDED_LINES,
            "fineweb_short_lines": _line_parts(
                texts, lambda line: len(line) <= FINEWEB_SHORT_LINE_CHARS
            )
            > FINEWEB_MAX_SHORT_LINES,
            "fineweb_duplicate_lines": _parts(repeated, n_line_chars) > FINEWEB_MAX_DUPLICATE_CHARS,
            "fineweb_many_lines": _parts(n_ends, texts.words.counts) > FINEWEB_MAX_LINES_BY_WORD,
        },
    )


FAMILIES: dict[str, Family] = {
    "gopher": gopher,
    "gopher_repetition": gopher_repetition,
    "fineweb": fineweb,
}


def first_broken(n_texts: int, is_broken: dict[str, Flags]) -> list[str]:
    """By text the name of the first rule that is broken, or ""."""
    reasons = [""] * n_texts
    for name, flags in reversed(is_broken.items()):
        for row in np.flatnonzero(flags).tolist():
            reasons[row] = name
    return reasons


def _parts(numerators: Numbers, denominators: Numbers) -> Fractions:
    """Quotients; a part of nothing is 0."""
    return numerators / np.maximum(denominators, 1)


def _counts(texts: Texts, marks: Sequence[str]) -> Numbers:
    return np.array(
        [sum(text.count(mark) for mark in marks) for text in texts.texts], dtype=np.int64
    )


def _line_parts(texts: Texts, is_such: Callable[[str], bool]) -> Fractions:
    """The part of a text's lines that are such."""
    return np.array(
        [sum(map(is_such, lines)) / max(len(lines), 1) for lines in texts.lines], dtype=np.float64
    )


def _words_with_letter(texts: Texts) -> Fractions:
    kinds: Bytes = np.frombuffer(b"\0" + texts.content.translate(_KINDS), dtype=np.uint8)
    is_inside = kinds != 0  # each text ends in white space
    edges = np.flatnonzero(is_inside[1:] != is_inside[:-1])
    starts, ends = edges[0::2], edges[1::2]
    n_letters = np.cumsum(kinds == 2)
    has_letter = n_letters[ends] > n_letters[starts]
    firsts = np.searchsorted(starts, texts.starts)
    n_with = np.diff(np.concatenate([[0], np.cumsum(has_letter)])[firsts])
    return _parts(n_with, np.diff(firsts))


def _n_stop_words(texts: Texts) -> Numbers:
    words = texts.words
    found = np.zeros(len(texts), dtype=np.int64)
    for stop_word in Texts(GOPHER_STOP_WORDS).words.hashes:
        found += words.sums(words.hashes == stop_word) > 0
    return found
