"""A recipe of this machine's files for a server elsewhere: they are uploaded and named by ids.

Called by `mulm data build --url`. Invariants: what has an address is left for the server to fetch;
the same bytes are uploaded once a day, however often the verb is repeated; but for where its text
lies the recipe stays what it was, so the same recipe of the same files is the same run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from jobs.remote import Remote
from mulm.checksum import hash_file
from mulm.data.recipe import Recipe
from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import SourceFile
from mulm.data.sources.registry import source_of
from mulm.data.sources.remote import is_remote
from mulm.errors import DataError

_PURPOSE = "user_data"


def uploaded(recipe: Recipe, remote: Remote, note: Callable[[str], None]) -> dict[str, Any]:
    """The recipe as the server may have it.

    Args:
        recipe: Paths begin in the current folder.
        remote: The server.
        note: Told which file is being sent.

    Raises:
        DataError: a file is not there, or cannot be read.
        MulmError: what the server says.
    """
    given = recipe.model_dump(mode="json", exclude_unset=True)
    given["sources"] = [
        source
        for spec in recipe.sources
        for source in _sources(spec, lambda file: _sent(file, remote, note))
    ]
    return given


def _sources(spec: SourceSpec, send: Callable[[SourceFile], str]) -> Iterator[dict[str, Any]]:
    """One for each file; a name is numbered then, and a weight shared out by size."""
    given = spec.model_dump(mode="json", exclude_unset=True)
    if not spec.path or is_remote(spec.path):
        yield given
        return
    # Empty ones have nothing to say, and are no uploads.
    sizes = [(file, size) for file in source_of(spec.type).files(spec) if (size := _size(file))]
    total = sum(size for _, size in sizes)
    del given["path"]
    for number, (file, size) in enumerate(sizes, start=1):
        own = given | {"file": send(file)}
        if spec.name is not None and len(sizes) > 1:
            own["name"] = f"{spec.name}-{number}"
        if spec.weight is not None:
            own["weight"] = spec.weight * size / total
        yield own


def _size(file: SourceFile) -> int:
    try:
        return file.path.stat().st_size
    except OSError as error:
        raise DataError(f"{file.path} cannot be read: {error.strerror}") from None


def _sent(file: SourceFile, remote: Remote, note: Callable[[str], None]) -> str:
    note(f"uploading {file.name}")
    try:
        known_by = f"{hash_file(file.path)}:{file.path.name}"
        key = hashlib.sha256(known_by.encode()).hexdigest()
        return str(remote.upload(file.path, _PURPOSE, key)["id"])
    except OSError as error:
        raise DataError(f"{file.path} cannot be read: {error.strerror}") from None
