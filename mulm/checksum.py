"""Checksums of files, read in pieces, and of several files at once.

Called by the store and by what verifies it. Invariant: hashing releases the interpreter, so two
threads use two cores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

_N_THREADS = 2
"""What the smallest machine has; more would wait for its disk."""

T = TypeVar("T")
R = TypeVar("R")


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_threads(check: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Check all on two cores and yield the results in order; an error leaves the rest undone."""
    with ThreadPoolExecutor(_N_THREADS) as pool:
        yield from pool.map(check, items)
