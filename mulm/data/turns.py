"""Plain text as turns: the user begins a passage, the assistant continues it.

Called while encoding, for the part of the training sections that the recipe asks for, so that
a model that has read nothing but books has seen the chat tokens and knows what a turn is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mulm.chat import Message

_SENTENCE_END = re.compile(r"[.!?][\"')\]”’]*\s+(?=\S)")


def as_turns(text: str) -> list[Message]:
    """The paragraphs of a text as alternating user and assistant messages.

    A paragraph of several sentences is one exchange, cut after the sentence nearest its
    middle; one of a single sentence is continued by the next paragraph. White space around
    the cuts is not kept.
    """
    pieces = [piece for paragraph in text.split("\n\n") for piece in _halves(paragraph)]
    pieces = pieces[: len(pieces) // 2 * 2]
    return [
        Message(role="assistant" if i % 2 else "user", content=piece)
        for i, piece in enumerate(pieces)
    ]


def _halves(paragraph: str) -> Iterator[str]:
    paragraph = paragraph.strip()
    ends = [match.end() for match in _SENTENCE_END.finditer(paragraph)]
    if ends:
        cut = min(ends, key=lambda end: abs(end - len(paragraph) // 2))
        yield paragraph[:cut].rstrip()
        yield paragraph[cut:]
    elif paragraph:
        yield paragraph
