"""The files of a recipe, in their one order, and what identifies them.

Called by the driver at the start of a build. Invariant: the identity holds names below the
source and hashes of contents, never a path of this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mulm.data.documents import FileTask
from mulm.data.recipe import Recipe
from mulm.data.sources.registry import source_of
from mulm.errors import DataError
from mulm.store import hash_file


def list_files(recipe: Recipe) -> list[FileTask]:
    """All files, in the order of the recipe's sources and then by name.

    Raises:
        NotFoundError: a source has no files.
        UnknownNameError: a source of an unknown type.
    """
    found = [
        (spec.type, file)
        for spec in recipe.sources
        for file in source_of(spec.type).files(spec.path)
    ]
    return [FileTask(number, source, file) for number, (source, file) in enumerate(found)]


def identities(tasks: Sequence[FileTask]) -> list[dict[str, Any]]:
    """What the result depends on: source type, name and SHA-256 of each file.

    Raises:
        DataError: a file cannot be opened.
    """
    return [{"type": task.source, "name": task.file.name, "sha256": _hash(task)} for task in tasks]


def _hash(task: FileTask) -> str:
    try:
        return hash_file(task.file.path)
    except OSError as error:
        raise DataError(
            f"cannot read {str(task.file.path)!r}: {error.strerror}",
            hint="check its permissions, or leave it out of the recipe",
        ) from None


def licences(recipe: Recipe) -> tuple[str, ...]:
    """The licences of all sources, each once."""
    return tuple(sorted({spec.licence for spec in recipe.sources}))
