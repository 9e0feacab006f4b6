"""Read tasks: the files of a recipe, cut into pieces of work of about one size.

Made by the driver before a build, carried out anywhere by `mulm.data.chunk`. Invariant: which
files stand together in a task is decided by their contents, so that a file more or less moves the
borders of few tasks, and what was worked out for the others is found again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import PART_BYTES, Part, Source, SourceFile
from mulm.errors import DataError

_LEAST_BYTES = PART_BYTES // 8
_BORDER_BYTES = PART_BYTES // 4
"""Files among which about one may end a task. Well above the least, as borders that came apart
would otherwise hardly ever meet again."""
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a recipe as it was when the build began."""

    source: int
    """Which source of the recipe it belongs to."""
    file: SourceFile
    sha256: str
    size_bytes: int
    modified_ns: int

    @property
    def identity(self) -> dict[str, Any]:
        """What results depend on."""
        return {"source": self.source, "name": self.file.name, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class ReadTask:
    """Parts of files of one source, read one after another by one worker."""

    spec: SourceSpec
    pieces: tuple[tuple[ListedFile, Part], ...]
    size_bytes: int

    @property
    def source(self) -> int:
        """Which source of the recipe it reads."""
        return self.pieces[0][0].source

    @property
    def identity(self) -> dict[str, Any]:
        """What its result depends on, apart from rules: no path, no place among other tasks."""
        return {
            "type": self.spec.type,
            "columns": dict(self.spec.columns),
            "sections": self.spec.sections,
            "pieces": [
                [listed.file.name, listed.sha256, part.start, part.stop]
                for listed, part in self.pieces
            ],
        }


def make_tasks(spec: SourceSpec, source: Source, files: Sequence[ListedFile]) -> list[ReadTask]:
    """The tasks of one source, in the order of its files."""
    return [
        ReadTask(spec, tuple(pieces), sum(_size_bytes(listed, part) for listed, part in pieces))
        for pieces in _groups(_pieces(spec, source, files))
    ]


def require_unchanged(listed: ListedFile) -> None:
    """Refuse a file that is not the one that was hashed.

    Raises:
        DataError: it is gone or was written to; the message names it.
    """
    try:
        stat = listed.file.path.stat()
    except OSError as error:
        raise unreadable(listed.file, error) from None
    if (stat.st_size, stat.st_mtime_ns) != (listed.size_bytes, listed.modified_ns):
        raise DataError(
            f"{listed.file.name!r} changed while it was being read",
            hint="let whatever writes to it finish, then build again",
        )


def unreadable(file: SourceFile, error: OSError) -> DataError:
    """The error of a file that cannot be opened."""
    return DataError(
        f"cannot read {str(file.path)!r}: {error.strerror}",
        hint="check its permissions, or leave it out of the recipe",
    )


def _pieces(
    spec: SourceSpec, source: Source, files: Iterable[ListedFile]
) -> Iterator[tuple[ListedFile, Part]]:
    for listed in files:
        for part in source.parts(spec, listed.file):
            yield listed, part


def _groups(
    pieces: Iterable[tuple[ListedFile, Part]],
) -> Iterator[list[tuple[ListedFile, Part]]]:
    group: list[tuple[ListedFile, Part]] = []
    size_bytes = 0
    for listed, part in pieces:
        group.append((listed, part))
        size_bytes += _size_bytes(listed, part)
        if size_bytes >= PART_BYTES or (size_bytes >= _LEAST_BYTES and _is_border(listed)):
            yield group
            group, size_bytes = [], 0
    if group:
        yield group


def _is_border(listed: ListedFile) -> bool:
    """Whether the contents of a file allow a border after it, the likelier the larger it is."""
    return int(listed.sha256[:_DIGITS], 16) * _BORDER_BYTES < listed.size_bytes << (4 * _DIGITS)


def _size_bytes(listed: ListedFile, part: Part) -> int:
    """About how many bytes a part has; in which units it is told is its source's affair."""
    return listed.size_bytes if part == Part() else min(listed.size_bytes, PART_BYTES)
