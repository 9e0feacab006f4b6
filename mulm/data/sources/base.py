"""The contract of sources: where documents come from.

A source lists its files once, on the driver, and reads one file wherever it is asked to. The
registry of `mulm.data.sources.registry` knows them by name. Invariants: `files` is sorted and
does not depend on the machine; `read` is a pure function of the file's bytes; a bad file
raises `UnreadableError`, which is counted and kept as a reject, and ends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class UnreadableError(Exception):
    """A file that cannot be read as documents; the message says why."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source. `name` is its path below the source, the same on every machine."""

    name: str
    path: Path


class Source(Protocol):
    """A type of source."""

    def files(self, path: str) -> list[SourceFile]:
        """The files that `path` (a file, a folder, a glob) means, sorted by name.

        Raises:
            NotFoundError: there is none.
        """

    def read(self, file: SourceFile) -> Iterator[bytes]:
        """The raw documents inside a file, in order.

        Raises:
            UnreadableError: the file is damaged.
        """
