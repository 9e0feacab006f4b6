"""Exact duplicates: the first in source order stays.

Called by the driver with the digests of all documents; the texts stay where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def digest(text: str) -> str:
    """The SHA-256 of a text, blind to white space."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def duplicates(digests: Sequence[str]) -> list[bool]:
    """For each digest, whether it was seen before it."""
    seen: set[str] = set()
    verdicts = []
    for value in digests:
        verdicts.append(value in seen)
        seen.add(value)
    return verdicts
