"""Text for a terminal: what would move its cursor, ring its bell or hide words becomes visible.

Called by whatever shows a person text of a corpus, a model, a config or another program. Light: the
command line imports it. Invariant: what `harmless` returns changes no terminal.
"""

from __future__ import annotations

import re

# Control characters but line ends and tabs; what turns, joins or hides text unseen: directions,
# line separators, byte order marks, tags; halves of characters that no terminal can write.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def harmless(text: str) -> str:
    """The text with everything visible that would move a cursor, ring a bell or turn a line."""
    return _HARMFUL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)  # the pictures of control characters
    return "\u2421" if code == 0x7F else f"\\u{{{code:x}}}"
