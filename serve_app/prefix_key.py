"""How beginnings of prompts are told apart: a mark for each piece, of all tokens up to its end.

Called by `serve_app.engine_line`. Invariant: prompts have a mark in common exactly if they are
alike up to the end of that piece, but for collisions, which cost speed alone; all processes agree.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence

PIECE_TOKENS = 16
"""As long as a page of keys and values: engines find whole ones again."""


def marks_of(model_id: str, adapter: str | None, token_ids: Sequence[int]) -> list[int]:
    """Of each whole piece, in order; what one model has read is of no use to another."""
    mark = zlib.crc32(f"{model_id} {adapter}".encode())
    marks = []
    for end in range(PIECE_TOKENS, len(token_ids) + 1, PIECE_TOKENS):
        # Of numbers alone, so this hash is the same in each process.
        mark = hash((mark, *token_ids[end - PIECE_TOKENS : end]))
        marks.append(mark)
    return marks


def home_of(mark: int, names: Iterable[str]) -> str:
    """The engine of highest rank for a mark (rendezvous hashing)."""
    return max(names, key=lambda name: hashlib.blake2b(f"{mark} {name}".encode()).digest())
