"""Packing: whole documents into rows of one length, with as little waste as can be.

Called while encoding when a recipe asks for `pack.mode: best_fit`. Pure. Documents longer than a
row are cut; what remains of them and all shorter ones are laid into rows best-fit decreasing: the
longest first, each into the fullest row that still has room. Invariants: every document and every
piece of one begins with the end-of-text token, so that borders can be seen; each token of a
document is learned once, and of what fills a row up only the end of the last document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mulm.data.tokens import Tokens


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens [start, stop) of a document; a later one is led by an end-of-text token of its own."""

    document: Tokens
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start + (self.start > 0)


def pack_rows(documents: Sequence[Tokens], row_len: int, end_of_text_id: int) -> Tokens:
    """Rows of `row_len` tokens, one after another.

    Args:
        documents: Each begins with the end-of-text token.
        row_len: Tokens in a row: T + 1 for training windows of T.
        end_of_text_id: Leads pieces, and fills what is left of a row.
    """
    pieces = [piece for document in documents for piece in _cut(document, row_len)]
    rows = best_fit([len(piece) for piece in pieces], row_len)
    ids = np.full(len(rows) * row_len, end_of_text_id, np.uint32)
    learned = np.zeros(len(ids), np.bool_)
    for number, row in enumerate(rows):
        at = number * row_len
        for piece in (pieces[place] for place in row):
            at += piece.start > 0
            stop = at + piece.stop - piece.start
            ids[at:stop] = piece.document.ids[piece.start : piece.stop]
            learned[at:stop] = piece.document.learned[piece.start : piece.stop]
            at = stop
        learned[at : min(at + 1, (number + 1) * row_len)] = True  # that the last one ends here
    return Tokens(ids, learned)


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which items go into which bin, best-fit decreasing; items of one length in their order.

    Args:
        lengths: From 1 to `capacity`.
        capacity: Of each bin.
    """
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    has_room = 0  # bit r: some bin has exactly r left, so that the fullest is found at once
    for item in sorted(range(len(lengths)), key=lambda item: (-lengths[item], item)):
        length = lengths[item]
        fitting = has_room >> length
        if fitting:
            room = length + ((fitting & -fitting).bit_length() - 1)
            chosen = by_room[room].pop()
            if not by_room[room]:
                has_room ^= 1 << room
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(item)
        by_room[room - length].append(chosen)
        has_room |= 1 << (room - length)
    return bins


def _cut(document: Tokens, row_len: int) -> list[_Piece]:
    """Pieces of at most a row."""
    n = len(document)
    later = range(row_len, n, row_len - 1)
    return [
        _Piece(document, 0, min(n, row_len)),
        *(_Piece(document, start, min(n, start + row_len - 1)) for start in later),
    ]
