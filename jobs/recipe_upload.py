"""A recipe of this machine's files for a server elsewhere: they are uploaded and named by ids.

Called by `mulm data build --url`. Each file becomes a source: it keeps its source's label, numbered
where there are several, and its share of the weight by its size. Invariants: what has an address is
left for the server to fetch; nothing is sent before the recipe that comes of it is known to be
one; what the server holds already is not sent again, however often the verb is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jobs.remote import Remote
from jobs.remote_files import RemoteFiles
from mulm.config import parse_config
from mulm.data.recipe import Recipe
from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import SourceFile
from mulm.data.sources.registry import source_of
from mulm.data.sources.remote import is_remote
from mulm.errors import ConfigError, DataError

_NOT_SENT = "file_not_sent"


@dataclass(frozen=True, slots=True)
class _Planned:
    """A source as the server will have it, and the file that is to be sent for it."""

    given: dict[str, Any]
    file: SourceFile | None = None


def uploaded(recipe: Recipe, remote: Remote, note: Callable[[str], None]) -> dict[str, Any]:
    """The recipe as the server may have it.

    Args:
        recipe: Paths begin in the current folder.
        remote: The server.
        note: Told which file is being sent.

    Raises:
        ConfigError: a part of it is not done for others, or it is no recipe file by file.
        NotFoundError, DataError: a file is not there, cannot be read, or all are empty.
        MulmError: what the server says.
    """
    _require_allowed(recipe)
    pairs = zip(recipe.sources, recipe.labels, strict=True)
    planned = [one for spec, label in pairs for one in _planned(spec, label)]
    given = recipe.model_dump(mode="json", exclude_unset=True)
    parse_config(Recipe, given | {"sources": [one.given for one in planned]})
    files = RemoteFiles(remote)

    def sent(file: SourceFile) -> str:
        note(f"uploading {file.name}")
        return files.send(file.path)

    sources = [
        one.given if one.file is None else one.given | {"file": sent(one.file)} for one in planned
    ]
    return given | {"sources": sources}


def _require_allowed(recipe: Recipe) -> None:
    """What a server refuses is refused before anything is sent."""
    hint = "build it on that machine"
    if recipe.decontaminate is not None:
        raise ConfigError("no server takes decontaminate from elsewhere", hint=hint)
    for spec in recipe.sources:
        if ":" in spec.type:
            raise ConfigError(f"no server runs {spec.type!r} for others", hint=hint)


def _planned(spec: SourceSpec, label: str) -> Iterator[_Planned]:
    given = spec.model_dump(mode="json", exclude_unset=True) | {"name": label}
    if not spec.path or is_remote(spec.path):
        yield _Planned(given)
        return
    # Empty ones have nothing to say, and are no uploads.
    sizes = [(file, size) for file in source_of(spec.type).files(spec) if (size := _size(file))]
    if not sizes:
        raise DataError(f"nothing is in {spec.path!r}", hint="all of its files are empty")
    total = sum(size for _, size in sizes)
    del given["path"]
    for number, (file, size) in enumerate(sizes, start=1):
        own = given | {"file": _NOT_SENT}
        if len(sizes) > 1:
            own["name"] = f"{label}-{number}"
        if spec.weight is not None:
            own["weight"] = spec.weight * size / total
        yield _Planned(own, file)


def _size(file: SourceFile) -> int:
    try:
        return file.path.stat().st_size
    except OSError as error:
        raise DataError(f"{file.path} cannot be read: {error.strerror}") from None
