"""What goes wrong between here and a store elsewhere: which error that is, and what to do.

Called by `mulm.origin` with what pyarrow or fsspec said. Pure. Invariant: no key that stands in a
URL is in what comes out.
"""

from __future__ import annotations

import re

from mulm.errors import AuthError, ConfigError, MulmError, UnreachableError

_KEYS = re.compile(r"://(?:[^/@:\s']*:[^?#\s']*|[^/@\s']*)@")
"""Behind a colon up to the last @ before a query: keys may hold a slash, and passwords an @."""
_SECRETS = re.compile(r"(?i)([?&][^=&\s']*(?:key|secret|token|password|sig)[^=&\s']*=)[^&\s']*")
_SAID_CHARS = 400
_SIGNS: tuple[tuple[re.Pattern[str], type[MulmError], str], ...] = (
    (
        re.compile(r"NETWORK_CONNECTION|REQUEST_TIMEOUT|curlCode|[Rr]esolve host|[Cc]onnection"),
        UnreachableError,
        "check the network, the address of the server, and that it runs",
    ),
    (
        re.compile(r"ACCESS_DENIED|ACCESS_KEY|SIGNATURE|_TOKEN|[Ff]orbidden|[Cc]redential"),
        AuthError,
        "check the credentials, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or"
        " ~/.aws/credentials, and that they may read and write there",
    ),
    (
        re.compile(r"NO_SUCH_BUCKET|Bucket '[^']*' not found"),
        ConfigError,
        "make the bucket first, or name one that exists in MULM_STORE_URL",
    ),
)


def shown(text: str) -> str:
    """A URL, or a text with URLs in it, without the keys that may stand in them."""
    return _SECRETS.sub(r"\1...", _KEYS.sub("://", text))


def trouble(what: str, error: object, otherwise: str) -> MulmError:
    """The error that a foreign one comes down to; `otherwise` is the hint where none is known."""
    said = shown(" ".join(str(error).split()))[:_SAID_CHARS]
    for sign, kind, hint in _SIGNS:
        if sign.search(said):
            return kind(f"{what}: {said}", hint=hint)
    return ConfigError(f"{what}: {said}", hint=otherwise)
