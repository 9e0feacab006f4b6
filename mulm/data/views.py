"""What is told of the documents of a version: previews, statistics, rejects, differences.

Called by `mulm data ...` and the HTTP API. Answers are JSON-compatible values. Invariant: texts are
as they were stored, so not yet harmless to a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mulm.data.corpus import Corpus
from mulm.data.decisions import TRAIN, VALIDATION
from mulm.data.diff import document_changes, file_changes, setting_changes, shared_bytes
from mulm.data.preview import Piece, Shown, choose, pieces_of, shown, window
from mulm.data.shelf import DatasetVersion, Shelf
from mulm.data.stats import Stats, stats_of
from mulm.data.tokenizer import Tokenizer
from mulm.errors import UnknownNameError, nearest

_CHARS_A_TOKEN = 4
_REJECT_CHARS = 400
_DIFF_CHARS = 200


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


def stats(shelf: Shelf, found: DatasetVersion) -> Stats:
    """The statistics of a version.

    Raises:
        NotFoundError: the version's documents are not here.
    """
    documents = found.documents
    tokenizer = Tokenizer.from_bytes(shelf.store.read(found.dataset.blob("tokenizer.json")))
    return stats_of(shelf.store, documents, found.dataset, tokenizer.end_of_text_id)


def rejects(
    shelf: Shelf, found: DatasetVersion, reason: str | None, n: int, seed: int = 0
) -> dict[str, Any]:
    """Counts by reason, and up to `n` samples of each reason or of the one that was asked for.

    Raises:
        NotFoundError: the version's documents are not here.
        UnknownNameError: nothing was dropped for that reason.
    """
    corpus = shelf.corpus(found)
    counts = corpus.decisions.counts()
    reasons = {name: k for name, k in counts.items() if name not in (TRAIN, VALIDATION)}
    if reason is not None:
        _require_reason(found, corpus, reason)
    ordered = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    samples = [
        sample
        for name in ([reason] if reason else ordered)
        for sample in _samples(corpus, name, n, seed)
    ]
    return {
        "dataset": found.ref,
        "documents": sum(counts.values()),
        "rejected": sum(reasons.values()),
        "reasons": ordered,
        "samples": samples,
    }


def rejects_behind(
    shelf: Shelf, found: DatasetVersion, reason: str, after: int, limit: int
) -> list[dict[str, Any]]:
    """Up to `limit` of the documents that were dropped for a reason, in their order.

    Args:
        shelf: Where the version stands.
        found: The version.
        reason: Why they were dropped.
        after: The number of a document: only those behind it; -1 for all.
        limit: At most so many.

    Raises:
        NotFoundError: the version's documents are not here.
        UnknownNameError: nothing was dropped for that reason.
    """
    corpus = shelf.corpus(found)
    _require_reason(found, corpus, reason)
    numbers = np.flatnonzero(corpus.decisions.are(reason))
    start = int(np.searchsorted(numbers, after, side="right"))
    return _with_originals(corpus, shown(corpus, numbers[start : start + limit].tolist()))


def diff(shelf: Shelf, before: DatasetVersion, after: DatasetVersion, n: int) -> dict[str, Any]:
    """What differs; of documents that differ, `n` samples of each kind.

    Raises:
        NotFoundError: the documents of one of them are not here.
    """
    old, new = shelf.corpus(before), shelf.corpus(after)
    documents = document_changes(old, new, n)
    sizes = before.sizes, after.sizes
    return {
        "before": before.ref,
        "after": after.ref,
        "is_same": before.dataset.id == after.dataset.id,
        "settings": [asdict(c) for c in setting_changes(before.manifests, after.manifests)],
        "files": asdict(file_changes(before.documents, after.documents)),
        "counts": {
            name: [before.dataset.counts.get(name), after.dataset.counts.get(name)]
            for name in sorted(before.dataset.counts.keys() | after.dataset.counts.keys())
        },
        "documents": {
            "same": documents.n_same,
            "decided": documents.decided,
            "rewritten": documents.n_rewritten,
            "added": documents.added,
            "removed": documents.removed,
        },
        "samples": {
            "decided": _pairs(old, new, documents.decided_pairs),
            "rewritten": _pairs(old, new, documents.rewritten_pairs),
            "added": _told(new, documents.added_numbers),
            "removed": _told(old, documents.removed_numbers),
        },
        "size_bytes": [sum(sizes[0].values()), sum(sizes[1].values())],
        "shared_bytes": shared_bytes(*sizes),
    }


def _require_reason(found: DatasetVersion, corpus: Corpus, reason: str) -> None:
    reasons = set(corpus.decisions.counts()) - {TRAIN, VALIDATION}
    if reason not in reasons:
        raise UnknownNameError(
            f"{found.ref} has no rejects for {reason!r}", hint=nearest(reason, reasons)
        )


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


def _samples(corpus: Corpus, reason: str, n: int, seed: int) -> list[dict[str, Any]]:
    return _with_originals(corpus, shown(corpus, choose(corpus, (reason,), n, seed)))


def _with_originals(corpus: Corpus, samples: Sequence[Shown]) -> list[dict[str, Any]]:
    """Each with what it repeats, if it was dropped for that."""
    originals = corpus.decisions.originals
    numbers = [originals[s.number] for s in samples if s.number in originals]
    by_number = {found.number: found for found in shown(corpus, numbers)}
    return [
        _cut(sample, _REJECT_CHARS)
        | {
            "original": _cut(by_number[originals[sample.number]], _REJECT_CHARS)
            if sample.number in originals
            else None
        }
        for sample in samples
    ]


def _cut(document: Shown, chars: int) -> dict[str, Any]:
    return asdict(document) | {
        "text": document.text[:chars],
        "left": max(0, len(document.text) - chars),
    }


def _pairs(
    old: Corpus, new: Corpus, pairs: Sequence[tuple[int, int]]
) -> list[list[dict[str, Any]]]:
    before = _told(old, [a for a, _ in pairs])
    after = _told(new, [b for _, b in pairs])
    return [[a, b] for a, b in zip(before, after, strict=True)]


def _told(corpus: Corpus, numbers: Sequence[int]) -> list[dict[str, Any]]:
    return [
        asdict(document) | {"text": document.text[:_DIFF_CHARS]}
        for document in shown(corpus, numbers)
    ]
