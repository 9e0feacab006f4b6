"""Names behind URLs: what a pattern matches, what a folder of a source holds, where copies lie.

Called by the `remote_*` modules. Invariant: a name from elsewhere never leaves its folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from mulm.data.sources.formats import FORMATS, suffix_of, suffixes_of
from mulm.errors import NotFoundError

_MAGIC = re.compile(r"[*\[]")
_WILDCARDS = re.compile(r"(\*\*/|\*\*|\*|\[!?[^\]/]+\])")
_BY_WILDCARD = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}


def shown_url(url: str) -> str:
    """A URL for people: without a password, and without a query, which may hold a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def key_of(*facts: object) -> str:
    """The folder of a copy, by what tells it from others."""
    return hashlib.sha256("\0".join(map(str, facts)).encode()).hexdigest()[:32]


def suffixes_for(type_name: str) -> tuple[str, ...]:
    """What a source of a type takes of a folder."""
    if type_name == "books":
        return suffixes_of("text")
    return suffixes_of(type_name) or (*FORMATS, ".tokens", ".raw")


def split_pattern(path: str) -> tuple[str, str]:
    """The folders before the first wildcard, and the rest; no wildcard, no rest."""
    found = _MAGIC.search(path)
    if not found:
        return path, ""
    folder, slash, rest = path[: found.start()].rpartition("/")
    return folder + slash, rest + path[found.start() :]


def chosen(names: Iterable[str], pattern: str, type_name: str, url: str) -> list[str]:
    """The names below a folder that a pattern matches, or without one those of known formats.

    Raises:
        NotFoundError: there are none.
    """
    known = sorted(name for name in names if is_portable(name))
    if pattern:
        regex = re.compile(_as_regex(pattern))
        found = [name for name in known if regex.fullmatch(name)]
    else:
        suffixes = suffixes_for(type_name)
        visible = (name for name in known if not re.search(r"(?:^|/)[._]", name))
        found = [name for name in visible if suffix_of(name) in suffixes]
    if not found:
        there = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        raise NotFoundError(
            f"{shown_url(url)!r} has no such files",
            hint=f"there are: {there}" if there else "it is empty, or does not exist",
        )
    return found


def is_portable(name: str) -> bool:
    """Whether a name can be a path below a folder of ours."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts)


def _as_regex(pattern: str) -> str:
    pieces = _WILDCARDS.split(pattern)
    return "".join(
        _BY_WILDCARD.get(piece)
        or (piece.replace("[!", "[^") if _WILDCARDS.fullmatch(piece) else re.escape(piece))
        for piece in pieces
    )
