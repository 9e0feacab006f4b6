"""The text that lets another machine join: `mulm_join_<256 bits>_<checksum>`.

It is the cluster's own token in a form that can be pasted. Made by `mulm up --lan`, read by
`mulm join`. Invariant: a text that was cut off or mistyped is known as one without asking anybody.
"""

from __future__ import annotations

import re
import zlib

from mulm.errors import AuthError

_PREFIX = "mulm_join_"
_FORM = re.compile(rf"({_PREFIX}([0-9a-f]{{64}}))_([0-9a-f]{{8}})")


def join_token(ray_token: str) -> str:
    """The text for a cluster's token, 64 hexadecimal digits."""
    body = _PREFIX + ray_token
    return f"{body}_{_checksum(body)}"


def ray_token_in(text: str) -> str:
    """The cluster's token.

    Raises:
        AuthError: it is no such text, or a part of it is missing.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None or found[3] != _checksum(found[1]):
        raise AuthError(
            "the token is incomplete or mistyped",
            hint="paste the whole line that `mulm up --lan` printed",
        )
    return found[2]


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
