"""Source types by name, or by where a class of one's own lies: `my_package.mine:MySource`.

Called by whoever has a recipe. A new type of ours is one file beside this one and one line here;
a stranger's needs no line, only to be importable where the build runs.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mulm.checksum import hash_file
from mulm.data.sources.auto import BY_FORMAT, AutoSource
from mulm.data.sources.base import Source
from mulm.data.sources.books import BooksSource
from mulm.data.sources.wikitext import WholeSentencesSource, WikiTextSource
from mulm.errors import ConfigError, NotFoundError, UnknownNameError, nearest

SOURCES: Mapping[str, type[Source]] = MappingProxyType(
    {
        "auto": AutoSource,
        **BY_FORMAT,
        "books": BooksSource,
        "wikitext": WikiTextSource,
        "wikitext-whole-sentences": WholeSentencesSource,
    }
)
"""Our own types."""

_PARTS = ("files", "check", "parts", "read")


def source_of(type_name: str) -> Source:
    """The source of that type.

    Raises:
        UnknownNameError: there is none; the hint names the nearest.
        NotFoundError: `module:Class` cannot be imported.
        ConfigError: it is no source.
    """
    if ":" in type_name:
        return _imported(type_name)
    if type_name not in SOURCES:
        hint = nearest(type_name, SOURCES)
        raise UnknownNameError(f"unknown source type {type_name!r}", hint=hint)
    return SOURCES[type_name]()


def code_of(type_name: str) -> str | None:
    """The SHA-256 of the file that holds a class of one's own; None for our own types.

    Ours are covered by the version of our code. Raises as `source_of` does.
    """
    if ":" not in type_name:
        return None
    try:
        path = inspect.getsourcefile(type(_imported(type_name)))
    except TypeError:
        return None  # not written in Python
    return hash_file(Path(path)) if path and Path(path).is_file() else None


def _imported(type_name: str) -> Source:
    module, _, name = type_name.partition(":")
    try:
        made: type[Source] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise NotFoundError(
            f"cannot import the source {type_name!r}: {error}",
            hint="write `type: module:Class`; the module must be importable wherever the build "
            "runs: install it, or name its folder in PYTHONPATH",
        ) from None
    # Nothing is called before it is known to be a source: a recipe may come from afar.
    lacks = [part for part in _PARTS if not hasattr(made, part)]
    if lacks or not isinstance(made, type):
        raise ConfigError(
            f"{type_name!r} is no class of sources: it has no {(lacks or ['constructor'])[0]!r}",
            hint="see docs/data-sources.md for the four methods",
        )
    try:
        return made()
    except TypeError as error:
        raise ConfigError(
            f"a source of {type_name!r} cannot be made: {error}",
            hint="it is made without arguments",
        ) from None
