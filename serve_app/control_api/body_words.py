"""Errors of configs that came in bodies: which part of the body, and what a client can do.

Used by routes whose bodies are checked where files and command lines are. Invariant: an error stays
what it is; its `param` and its hint alone are those of HTTP.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mulm.config import Frozen
from mulm.errors import ConfigError, ConflictError, UnknownNameError

_KEY = re.compile(r"(?:unknown key ')?([a-z_]\w*)([\w.]*)(?:'|: )")
_OVER_HTTP = {
    "--cancelled": 'over HTTP send {"also_cancelled": true}',
    "--set key.path": 'over HTTP each is a text like "workers=1"',
    "logs -f": "over HTTP its events tell it",
}
"""What begins the way on the command line, and the same for other clients."""


@contextmanager
def named_in_body(schema: type[Frozen], where: str = "") -> Iterator[None]:
    """Name the key of `schema` that an error begins with, below `where` in the body."""
    try:
        yield
    except (ConfigError, UnknownNameError) as error:
        details = dict(error.details)
        found = _KEY.match(error.message)
        if found and (found[1] in schema.model_fields or error.message.startswith("unknown key")):
            details.setdefault("param", f"{where}{found[1]}{found[2]}")
        is_of_files = "--set" in error.hint
        hint = "give it in the body" if is_of_files else error.hint
        raise type(error)(error.message, hint=hint, **details) from None


@contextmanager
def also_over_http() -> Iterator[None]:
    """Add to a hint for the command line, which asks here too, what other clients send."""
    try:
        yield
    except (ConfigError, ConflictError) as error:
        more = [told for mark, told in _OVER_HTTP.items() if mark in error.hint]
        raise type(error)(
            error.message, hint="; ".join((error.hint, *more)), **error.details
        ) from None
