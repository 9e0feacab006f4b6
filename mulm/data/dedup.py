"""Exact duplicates: texts that differ in white space at most.

Called for each section where it is cut; whoever holds the digests of all sections in source
order keeps the first of each. Near duplicates are in `mulm.data.near`.
"""

from __future__ import annotations

import hashlib

DIGEST_BYTES = 16
_WHITE_SPACE = b" \t\n\v\f\r\x1c\x1d\x1e\x1f"


def digest(text: str) -> bytes:
    """16 bytes of the SHA-256 of a normalised text without its white space."""
    content = text.encode().translate(None, _WHITE_SPACE)
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]
