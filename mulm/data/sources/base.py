"""The contract of sources: where documents come from.

A source lists its files once, on the driver; it reads a part of one file wherever it is asked
to. The registry of `mulm.data.sources.registry` knows them by name. `mulm.data.sources.contract`
checks an implementation. Invariants: what `files` and `parts` return depends on the files' names
and bytes alone, never on the machine; `read` is a pure function of a file's bytes, and reads a
stream: no more than one document lies in memory at once. A bad document is a `RawDocument` with a
reason, a bad file an `UnreadableError`: both are counted and kept as rejects and end nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mulm.data.source_spec import SourceSpec

PART_BYTES = 16 << 20
"""About how much of a large file is one part."""


class UnreadableError(Exception):
    """A file that cannot be read as documents; the message says why, without a path."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source. `name` is its path below the source, the same on every machine."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch [start, stop) of a file, in units that its source chooses (bytes, row groups).

    `Part()` is the whole file.
    """

    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, slots=True)
class RawDocument:
    """A document as it was found. With a `reason` it is a reject and `text` shows what it was."""

    text: str
    reason: str = ""
    messages: str = ""
    """For a conversation: its messages as canonical JSON, `[{"role": ..., "content": ...}, ...]`;
    `text` is then what a person reads of it. For a preference pair: `{"chosen": [...],
    "rejected": [...]}`, both whole conversations."""
    may_be_cut: bool = False
    """Whether it is cut into sections where it is long, as books are; articles stay whole."""


class Source(Protocol):
    """A type of source."""

    def files(self, spec: SourceSpec) -> list[SourceFile]:
        """The files that `spec.path` (a file, a folder, a glob) means, sorted by name.

        Raises:
            NotFoundError: there is none.
        """

    def check(self, spec: SourceSpec, file: SourceFile) -> None:
        """Look at the head of a file, before any work: does it have what `spec` asks for?

        Raises:
            SchemaError: it does not; the message names the file, the row, and the columns that
                were found and wanted.
        """

    def parts(self, spec: SourceSpec, file: SourceFile) -> list[Part]:
        """How a file is divided so that several workers may read it. Never reads all of it."""

    def read(self, spec: SourceSpec, file: SourceFile, part: Part) -> Iterator[RawDocument]:
        """The documents that begin in a part, in order.

        Raises:
            UnreadableError: the file is damaged; what was yielded before counts.
        """
