"""The text of an API key, `mulm_sk_<public id>_<256 random bits>_<checksum>`, and its digest.

Called where keys are made and where they are checked. Invariants: a text with a typo is known as
one without asking anybody; of a text only a digest is kept, which says nothing to somebody who has
the ledger and not the installation's secret.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from pathlib import Path

from mulm.atomic import write_atomic
from mulm.errors import AuthError, CorruptError, NotFoundError

FOR_KEY = "x-mulm-for-key"
"""A header in which the work of this installation says for which key, by its id, it asks."""

_PREFIX = "mulm_sk_"
_N_SECRET_CHARS = 43
"""Of 62 kinds: 256 bits."""

_ALPHABET = string.ascii_letters + string.digits
_FORM = re.compile(
    rf"({_PREFIX}[A-Za-z0-9]{{1,32}}_[A-Za-z0-9]{{{_N_SECRET_CHARS}}})_([0-9a-f]{{8}})"
)
_OLD_FORM = re.compile(rf"{_PREFIX}[A-Za-z0-9_-]{{43}}")
"""Of keys from before they had an id and a checksum; those go on working."""

_INSTALLATION_SECRET = re.compile(r"[0-9a-f]{64}")


def make_text(key_id: str) -> str:
    """A fresh text for the key of that id."""
    random = "".join(secrets.choice(_ALPHABET) for _ in range(_N_SECRET_CHARS))
    body = f"{_PREFIX}{key_id.removeprefix('key_')}_{random}"
    return f"{body}_{_checksum(body)}"


def is_key(text: str) -> bool:
    """Whether a text can be a key."""
    found = _FORM.fullmatch(text)
    if found is None:
        return _OLD_FORM.fullmatch(text) is not None
    return found[2] == _checksum(found[1])


def id_in(text: str) -> str:
    """The id of the key whose text it is; nothing in that of an old one."""
    found = _FORM.fullmatch(text)
    return "key_" + found[1].split("_")[2] if found else ""


def digest_of(text: str, secret: bytes) -> str:
    """What is kept of a key: HMAC-SHA-256 with the installation's secret; of an old one SHA-256.

    Raises:
        AuthError: it is no key; as it stands, none is asked for.
    """
    if not is_key(text):
        raise AuthError(
            "the API key is not valid: it is incomplete or mistyped",
            hint="copy the whole key again, from `mulm_sk_` to its last character",
        )
    if _OLD_FORM.fullmatch(text):
        return hashlib.sha256(text.encode()).hexdigest()
    return f"hmac-sha256:{hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()}"


def ensure_secret(path: Path) -> bytes:
    """The installation's secret; made where there is none.

    Raises:
        CorruptError: the file holds something else.
    """
    if not path.exists():
        write_atomic(path, f"{secrets.token_hex(32)}\n".encode(), mode=0o600)
    return read_secret(path)


def read_secret(path: Path) -> bytes:
    """The installation's secret.

    Raises:
        NotFoundError: there is none.
        CorruptError: the file holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no secret for API keys in {str(path)!r}", hint="`mulm up` makes one"
        ) from None
    if not _INSTALLATION_SECRET.fullmatch(text):
        raise CorruptError(
            f"{str(path)!r} does not hold the secret that API keys were made with",
            hint="put the file back from a backup; without it make all keys anew",
        )
    return bytes.fromhex(text)


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
