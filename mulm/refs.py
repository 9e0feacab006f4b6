"""Names of things: `books@3` a version, `scholar@live` an alias, `books` the newest.

Used by the registry, the command line and the HTTP APIs. Invariant: an alias is never
a number, so a reference means one thing only.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from mulm.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_MOST_DIGITS = 9
_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Ref:
    """A parsed reference; at most one of `version` and `alias` is set."""

    name: str
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        pin = self.version if self.version is not None else self.alias
        return self.name if pin is None else f"{self.name}@{pin}"


def parse_ref(text: str) -> Ref:
    """Read `name`, `name@3` or `name@alias`.

    Raises:
        ConfigError: if the text is none of them.
    """
    name, _, pin = text.partition("@")
    check_name(name)
    if "@" not in text:
        return Ref(name)
    if pin.isascii() and pin.isdigit() and len(pin) <= _MOST_DIGITS and int(pin) > 0:
        return Ref(name, version=int(pin))
    return Ref(name, alias=check_alias(pin))


def check_name(name: str) -> str:
    """Return `name` if it can name a dataset, tokenizer or model, else raise ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:_SHOWN_CHARS]!r} is not a valid name",
            hint="use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
        )
    return name


def check_alias(alias: str) -> str:
    """Return `alias` if it can be an alias, else raise ConfigError."""
    if not _ALIAS.fullmatch(alias):
        raise ConfigError(
            f"{alias!r} is neither a version number nor an alias",
            hint="versions count from 1; an alias begins with a letter, like 'live'",
        )
    return alias


def new_id(prefix: str) -> str:
    """A fresh random id such as `req_9f2c4e8a1b3d` (48 random bits)."""
    return f"{prefix}_{secrets.token_hex(6)}"
