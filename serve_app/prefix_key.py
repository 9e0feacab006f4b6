"""Which engine a prompt belongs to: that of its beginning, whose pages it keeps.

Called by `serve_app.engine_line`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

_KEY_TOKENS = 128
_LEAST_TOKENS = 48
"""Of a shorter prompt there is little to find again."""


def home_of(key: str, names: Iterable[str]) -> str:
    """The engine of highest rank for a key (rendezvous hashing)."""
    return max(names, key=lambda name: hashlib.blake2b(f"{key} {name}".encode()).digest())


def key_of(prompt_ids: Sequence[int]) -> str:
    """What prompts that begin alike have in common; empty for short ones."""
    if len(prompt_ids) < _LEAST_TOKENS:
        return ""
    beginning = " ".join(map(str, prompt_ids[:_KEY_TOKENS]))
    return hashlib.blake2b(beginning.encode(), digest_size=12).hexdigest()
