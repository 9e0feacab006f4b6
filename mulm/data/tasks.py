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
from mulm.errors import DataError, MulmError, NotFoundError

_LEAST_BYTES = PART_BYTES // 32
_BORDER_BYTES = PART_BYTES // 8
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
    tasks: list[ReadTask] = []
    waiting: list[_Piece] = []
    size_bytes = 0
    for piece in _pieces(spec, source, files):
        waiting.append(piece)
        size_bytes += piece.size_bytes
        if _is_enough(size_bytes, piece):
            tasks.append(_task(spec, waiting, size_bytes))
            waiting, size_bytes = [], 0
    return [*tasks, _task(spec, waiting, size_bytes)] if waiting else tasks


def require_unchanged(listed: ListedFile) -> None:
    """Refuse a file that is not the one that was hashed.

    Raises:
        NotFoundError: it is gone.
        DataError: it was written to; the message names it.
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


def unreadable(file: SourceFile, error: OSError) -> MulmError:
    """The error of a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return NotFoundError(
            f"no such file: {str(file.path)!r}", hint="was it moved or removed a moment ago?"
        )
    return DataError(
        f"cannot read {str(file.path)!r}: {error.strerror}",
        hint="check its permissions, or leave it out of the recipe",
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    listed: ListedFile
    part: Part
    size_bytes: int
    """About its share of the file: in which units a part is told is its source's affair."""


def _pieces(spec: SourceSpec, source: Source, files: Iterable[ListedFile]) -> Iterator[_Piece]:
    for listed in files:
        parts = source.parts(spec, listed.file)
        for part in parts:
            yield _Piece(listed, part, listed.size_bytes // len(parts))


def _is_enough(size_bytes: int, last: _Piece) -> bool:
    """Whether a task may end after its last piece."""
    if last.part != Part():
        return size_bytes >= PART_BYTES // 2
    return size_bytes >= PART_BYTES or (size_bytes >= _LEAST_BYTES and _is_border(last.listed))


def _is_border(listed: ListedFile) -> bool:
    """Whether the contents of a file allow a border after it, the likelier the larger it is."""
    return int(listed.sha256[:_DIGITS], 16) * _BORDER_BYTES < listed.size_bytes << (4 * _DIGITS)


def _task(spec: SourceSpec, pieces: Sequence[_Piece], size_bytes: int) -> ReadTask:
    return ReadTask(spec, tuple((piece.listed, piece.part) for piece in pieces), size_bytes)
