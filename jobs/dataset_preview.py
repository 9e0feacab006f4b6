"""Documents of a version as a person sees them: text, tokens with their borders, the loss mask.

Called by `mulm data preview` and `mulm data rejects`. On a terminal tokens alternate in colour and
what is not learned is dim; elsewhere `|` stands between tokens and `[-` `-]` around what is not
learned. Invariant: all text of a corpus is made harmless here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from jobs.dataset_shelf import DatasetVersion, Shelf
from jobs.dataset_words import one_line, size_text
from mulm.data.corpus import Corpus
from mulm.data.decisions import TRAIN, VALIDATION
from mulm.data.preview import Piece, Shown, choose, pieces_of, shown, window
from mulm.errors import UnknownNameError, nearest
from mulm.terminal_text import harmless

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_GROUNDS = ("\x1b[48;5;252;38;5;16m", "\x1b[48;5;153;38;5;16m")
_CHARS_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class PreviewOrder:
    """Which documents to show, and what of them."""

    n: int = 3
    split: str | None = None
    """"train" or "validation"; both if absent."""
    seed: int = 0
    grep: str = ""
    source: str | None = None
    with_tokens: bool = False
    with_mask: bool = False
    chars: int = 1200
    """Of a document at most so much text; all of it if 0."""


def preview(shelf: Shelf, found: DatasetVersion, order: PreviewOrder) -> list[dict[str, Any]]:
    """The chosen documents; with tokens or mask each has its "tokens".

    Raises:
        NotFoundError: the version's documents are not here.
        UnknownNameError: no source is called so.
    """
    corpus = shelf.corpus(found)
    require_source(corpus, order.source)
    sides = (order.split,) if order.split else (TRAIN, VALIDATION)
    numbers = choose(corpus, sides, order.n, order.seed, source=order.source, grep=order.grep)
    documents = shown(corpus, numbers)
    if not (order.with_tokens or order.with_mask):
        return [_with_text(document, order) for document in documents]
    vocabulary = shelf.store.read(found.dataset.blob("tokenizer.json"))
    chat_fraction = float(found.dataset.config.get("chat_fraction", 0.0))
    return [
        _with_tokens(document, pieces_of(corpus, document, vocabulary, chat_fraction), order)
        for document in documents
    ]


def require_source(corpus: Corpus, source: str | None) -> None:
    """Refuse a source that the version does not have. Raises UnknownNameError."""
    known = {chunk.source for chunk in corpus.chunks}
    if source is not None and source not in known:
        raise UnknownNameError(f"no source {source!r}", hint=nearest(source, known))


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


def _with_text(document: Shown, order: PreviewOrder) -> dict[str, Any]:
    text = document.text
    place = text.casefold().find(order.grep.casefold()) if order.grep else 0
    part = window(len(text), place, order.chars or len(text))
    cut = {"skipped": part.start, "left": len(text) - part.stop, "unit": "characters"}
    return asdict(document) | {"text": text[part]} | cut


def _with_tokens(document: Shown, pieces: list[Piece], order: PreviewOrder) -> dict[str, Any]:
    place = _token_of(pieces, order.grep) if order.grep else 0
    size = max(1, order.chars // _CHARS_A_TOKEN) if order.chars else len(pieces)
    part = window(len(pieces), place, size)
    cut = {"skipped": part.start, "left": len(pieces) - part.stop, "unit": "tokens"}
    told = {key: value for key, value in asdict(document).items() if key != "text"}
    return (
        told
        | {"n_tokens": len(pieces), "n_learned": sum(piece.is_learned for piece in pieces)}
        | {"tokens": [asdict(piece) for piece in pieces[part]]}
        | cut
    )


def _token_of(pieces: Sequence[Piece], text: str) -> int:
    """The token in which a text begins; the first one if the text is nowhere."""
    place = "".join(piece.completes for piece in pieces).casefold().find(text.casefold())
    passed = 0
    for number, piece in enumerate(pieces):
        passed += len(piece.completes)
        if passed > place:
            return number
    return 0


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
