"""API keys: made here, known to the ledger by their digest, shown to nobody.

Called by `mulm up`. Invariant: the first key stands in `home.api_key` with mode 0600 and is
valid in the ledger, whichever of the two was lost before; no other key of its name is.
"""

from __future__ import annotations

import re
import secrets

from mulm.atomic import write_atomic
from mulm.errors import CorruptError, NotFoundError
from mulm.facts import Facts
from mulm.home import Home
from mulm.refs import new_id
from serve_app.auth import digest_of

_PATTERN = re.compile(r"mulm_sk_[A-Za-z0-9_-]{43}")
FIRST_KEY_NAME = "first"


def make_key() -> tuple[str, str, str]:
    """A fresh key: its id, its text (256 random bits) and its digest."""
    text = f"mulm_sk_{secrets.token_urlsafe(32)}"
    return new_id("key"), text, digest_of(text)


def ensure_first_key(home: Home, facts: Facts) -> bool:
    """Make the first key, or mend what is missing of it; returns whether a new one was made.

    A new one takes the place of the old, which is refused from then on.

    Raises:
        CorruptError: the file holds something else.
    """
    is_new = not home.api_key.exists()
    if is_new:
        write_atomic(home.api_key, f"{make_key()[1]}\n".encode(), mode=0o600)
    digest = digest_of(read_first_key(home))
    if digest not in facts.key_digests():
        facts.replace_key(new_id("key"), digest, FIRST_KEY_NAME)
    return is_new


def read_first_key(home: Home) -> str:
    """The text of the first key.

    Raises:
        NotFoundError: there is no file.
        CorruptError: the file does not hold a key.
    """
    try:
        text = home.api_key.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no API key in {str(home.api_key)!r}",
            hint="`mulm down` and `mulm up` make a new one; the old one ends with it",
        ) from None
    if not _PATTERN.fullmatch(text):
        raise CorruptError(
            f"{str(home.api_key)!r} does not hold an API key",
            hint="delete the file; the next start makes a new key",
        )
    return text
