"""Documents of a version as a person sees them: text, tokens with their borders, the loss mask.

Called by `mulm data preview` and `mulm data rejects`, with what `mulm.data.views` tells. On a
terminal tokens alternate in colour and what is not learned is dim; elsewhere `|` stands between
tokens and `[-` `-]` around what is not learned. Invariant: all text of a corpus is made harmless
here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from jobs.dataset_words import one_line, size_text
from mulm.data.preview import Piece
from mulm.data.views import PreviewOrder
from mulm.terminal_text import harmless

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_GROUNDS = ("\x1b[48;5;252;38;5;16m", "\x1b[48;5;153;38;5;16m")


def heading(document: dict[str, Any]) -> str:
    """One line that says which document it is."""
    name = one_line(document["name"], 60)
    place = f"{name} part {document['part']} row {document['row']}"
    language = f", {document['language']}" if document["language"] else ""
    size = size_text(document["size_bytes"])
    return f"--- {document['decision']}  {document['source']}: {place} ({size}{language})"


def document_lines(document: dict[str, Any], order: PreviewOrder, *, in_colour: bool) -> list[str]:
    """A document under its heading."""
    if "tokens" not in document:
        return [heading(document), harmless(document["text"]), *_rest(document)]
    pieces = [Piece(**values) for values in document["tokens"]]
    draw = _coloured if in_colour else _plain
    told = f"{document['n_tokens']:,} tokens, {document['n_learned']:,} of them learned"
    drawn = "".join(draw(pieces, order.with_tokens, order.with_mask))
    return [heading(document), told, drawn, *_rest(document)]


def _rest(document: dict[str, Any]) -> list[str]:
    skipped, left, unit = document["skipped"], document["left"], document["unit"]
    if not skipped and not left:
        return []
    return [f"... {skipped:,} {unit} before and {left:,} after are not shown (--chars 0)"]


def _plain(pieces: Sequence[Piece], with_tokens: bool, with_mask: bool) -> Iterator[str]:
    for is_learned, run in groupby(pieces, key=lambda piece: piece.is_learned or not with_mask):
        between = "|" if with_tokens else ""
        text = between.join(_visible(piece, with_tokens) for piece in run)
        yield text if is_learned else f"[-{text}-]"
        yield between if is_learned else ""


def _coloured(pieces: Sequence[Piece], with_tokens: bool, with_mask: bool) -> Iterator[str]:
    for number, piece in enumerate(pieces):
        ground = _GROUNDS[number % 2] if with_tokens else ""
        dim = _DIM if with_mask and not piece.is_learned else ""
        for k, line in enumerate(_visible(piece, with_tokens).split("\n")):
            yield "\n" if k else ""
            yield f"{ground}{dim}{line}{_PLAIN if ground or dim else ''}" if line else ""


def _visible(piece: Piece, with_tokens: bool) -> str:
    """A token's text; where borders are shown, line ends and halves of characters too."""
    if with_tokens:
        return harmless(piece.text).replace("\n", "↵\n")
    return harmless(piece.completes)
