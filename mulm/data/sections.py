"""Sections: long texts cut into documents at chapters and paragraphs.

Called for each cleaned file, so that a corpus of one long file can be shuffled, split and
deduplicated too. Invariant: the sections joined are the text.
"""

from __future__ import annotations

MIN_SECTION_CHARS = 8_000
MAX_SECTION_CHARS = 16_000


def cut_sections(
    text: str, min_chars: int = MIN_SECTION_CHARS, max_chars: int = MAX_SECTION_CHARS
) -> list[str]:
    """Cut a text so that "".join(sections) == text.

    Each section but the last has `min_chars` to `max_chars` characters and ends, if possible,
    before a chapter (two blank lines), else after a paragraph, a line, a word.
    """
    sections = []
    start = 0
    while len(text) - start > max_chars:
        end = _cut(text, start + min_chars, start + max_chars)
        sections.append(text[start:end])
        start = end
    return [*sections, text[start:]] if start < len(text) else sections


def _cut(text: str, low: int, high: int) -> int:
    """The best place in [low, high] to end a section."""
    chapter = text.find("\n\n\n", low - 3, high)
    if chapter >= 0:
        return chapter + 3
    for mark in ("\n\n", "\n", " "):
        found = text.rfind(mark, low - len(mark), high)
        if found >= 0:
            return found + len(mark)
    return high
