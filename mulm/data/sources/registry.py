"""Source types by name. A new type is one file beside this one and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mulm.data.sources.base import Source
from mulm.data.sources.text import TextSource
from mulm.errors import UnknownNameError, nearest

SOURCES: Mapping[str, type[Source]] = MappingProxyType({"text": TextSource})


def source_of(type_name: str) -> Source:
    """The source of that type.

    Raises:
        UnknownNameError: there is none; the hint names the nearest.
    """
    if type_name not in SOURCES:
        hint = nearest(type_name, SOURCES)
        raise UnknownNameError(f"unknown source type {type_name!r}", hint=hint)
    return SOURCES[type_name]()
