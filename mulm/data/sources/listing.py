"""The files of a recipe, in their one order, and the tasks of reading them.

Called by the driver at the start of a build. Invariants: identities hold names below the source
and hashes of contents, never a path of this machine; every source is checked before any work.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mulm.checksum import hash_file
from mulm.data.recipe import Recipe
from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import SourceFile
from mulm.data.sources.registry import source_of
from mulm.data.sources.remote import fetch, is_http, is_remote
from mulm.data.sources.remote_http import promised
from mulm.data.sources.uploaded import uploaded_file
from mulm.data.tasks import ListedFile, ReadTask, make_tasks, unreadable
from mulm.store import Store

_HASHING_THREADS = 2


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of all sources of a recipe."""

    files: tuple[ListedFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, as they lie."""
        return sum(listed.size_bytes for listed in self.files)

    @property
    def identities(self) -> list[dict[str, Any]]:
        """What the result depends on: source, name and SHA-256 of each file."""
        return [listed.identity for listed in self.files]


def list_files(recipe: Recipe, store: Store) -> Listing:
    """All files, in the order of the recipe's sources and then by name, each hashed.

    Args:
        recipe: Whose sources.
        store: Where uploaded files lie, and files from elsewhere are kept.

    Raises:
        NotFoundError: a source has no files, or an uploaded one is gone.
        UnknownNameError: a source of an unknown type.
        DataError: a file cannot be opened.
    """
    found: list[tuple[int, SourceFile]] = []
    for number, spec in enumerate(recipe.sources):
        found += [(number, file) for file in _files(spec, store)]
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:  # hashing runs outside of Python's lock
        return Listing(tuple(pool.map(lambda item: _listed(*item), found)))


def identities(recipe: Recipe, store: Store) -> list[dict[str, Any]]:
    """As `Listing.identities`; what is known by its checksum is not fetched for that.

    Raises as `list_files`.
    """
    found: list[dict[str, Any]] = []
    for number, spec in enumerate(recipe.sources):
        if is_http(spec.path):
            name, digest = promised(spec)
            found.append({"source": number, "name": name, "sha256": digest})
        else:
            files = [_listed(number, file) for file in _files(spec, store)]
            found += [listed.identity for listed in files]
    return found


def read_tasks(recipe: Recipe, listing: Listing) -> list[ReadTask]:
    """Every source checked, and its work divided.

    Raises:
        SchemaError: a file does not have the columns that the recipe asks for.
    """
    tasks = []
    for number, spec in enumerate(recipe.sources):
        source = source_of(spec.type)
        files = [listed for listed in listing.files if listed.source == number]
        for listed in files:
            source.check(spec, listed.file)
        tasks += make_tasks(spec, source, files)
    return tasks


def checksum(path: str) -> str:
    """The SHA-256 of a local file.

    Raises:
        DataError: it cannot be opened.
    """
    return _listed(0, SourceFile(path, Path(path).expanduser())).sha256


def licences(recipe: Recipe) -> tuple[str, ...]:
    """The licences of all sources, each once."""
    return tuple(sorted({spec.licence for spec in recipe.sources}))


def _files(spec: SourceSpec, store: Store) -> list[SourceFile]:
    assert spec.file is None, "the caller resolves the file"
    if spec.content is not None:
        return [uploaded_file(spec.content, store)]
    if is_remote(spec.path):
        return fetch(spec, store.downloads)
    return source_of(spec.type).files(spec)


def _listed(source: int, file: SourceFile) -> ListedFile:
    try:
        stat = file.path.stat()
        digest = hash_file(file.path)
    except OSError as error:
        raise unreadable(file, error) from None
    return ListedFile(source, file, digest, stat.st_size, stat.st_mtime_ns)
