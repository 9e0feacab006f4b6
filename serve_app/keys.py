"""API keys: made here, known to the ledger by their digest, shown to nobody.

Called by `mulm up`, the control API and the command line. Invariant: the first key stands in
`home.api_key` with mode 0600 and is valid in the ledger, whichever of the two was lost before; no
other key of its name is; one that was revoked never comes back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from mulm.atomic import write_atomic
from mulm.errors import CorruptError, NotFoundError
from mulm.facts import Facts
from mulm.home import Home
from mulm.refs import new_id
from serve_app.key_text import digest_of, ensure_secret, id_in, is_key, make_text

FIRST_KEY_NAME = "first"


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A secret that was just made: the only time that its text is known."""

    id: str
    text: str
    digest: str


def make_key(secret: bytes, key_id: str = "") -> MadeKey:
    """A fresh secret, of a new key or of the one of that id."""
    key_id = key_id or new_id("key")
    text = make_text(key_id)
    return MadeKey(key_id, text, digest_of(text, secret))


def ensure_first_key(home: Home, facts: Facts) -> bool:
    """Make the first key, or mend what is missing of it; returns whether a new one was made.

    A new one takes the place of the old, which is refused from then on.

    Raises:
        CorruptError: the file, or that of the installation's secret, holds something else.
    """
    secret = ensure_secret(home.key_secret)
    if home.api_key.exists():
        digest = digest_of(read_first_key(home), secret)
        known = facts.key_secrets().get(digest)
        if known is not None and (known.expires_s is None or known.expires_s > time.time()):
            return False
        if known is None and not facts.is_retired(digest):
            facts.replace_key(new_id("key"), digest, FIRST_KEY_NAME)
            return False
    made = make_key(secret)
    write_first_key(home, made.text)
    facts.replace_key(made.id, made.digest, FIRST_KEY_NAME)
    return True


NEW_FIRST = "`mulm down` and `mulm up` make a new first key"
"""The way out where the first key is of no use any more."""


def write_first_key(home: Home, text: str) -> None:
    """Let the commands of this machine use that key."""
    write_atomic(home.api_key, f"{text}\n".encode(), mode=0o600)


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
    if not is_key(text):
        raise CorruptError(
            f"{str(home.api_key)!r} does not hold an API key",
            hint="delete the file; the next start makes a new key",
        )
    return text


def is_first_key(home: Home, key_id: str, name: str) -> bool:
    """Whether the commands of this machine use that key."""
    try:
        text = read_first_key(home)
    except (NotFoundError, CorruptError):
        return False
    return id_in(text) == key_id if id_in(text) else name == FIRST_KEY_NAME
