"""The lock of a run, or of another path: at most one process works on it at a time.

Taken by `jobs.entry.execute` and, for a folder of files from a hub, by `mulm.model.hf_hub`; asked
for by `jobs.up`. Invariant: the kernel holds it for the process, so that it ends with the process,
however that ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mulm.atomic import make_folder, naming_full_disk
from mulm.errors import ConflictError
from mulm.home import Home

_PATIENCE_S = 0.5
"""Longer than `is_held` holds it to see whether it is free."""

_POLL_S = 0.05


@contextmanager
def run_lock(home: Home, run_id: str) -> Iterator[None]:
    """Work on a run alone.

    Raises:
        ConflictError: another process works on it.
    """
    with path_lock(_path(home, run_id), run_id):
        yield


@contextmanager
def path_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`; an error calls what it guards `what`.

    Raises:
        ConflictError: another process holds it.
    """
    make_folder(path.parent)
    with naming_full_disk(path.parent):
        file = path.open("ab+", buffering=0)
    with file:
        deadline_s = time.monotonic() + _PATIENCE_S
        while not _try(file.fileno(), fcntl.LOCK_EX):
            if time.monotonic() > deadline_s:
                file.seek(0)
                raise ConflictError(
                    f"process {file.read().decode() or 'unknown'} works on {what} already",
                    hint="wait for it, or stop it and run the same command again",
                )
            time.sleep(_POLL_S)
        file.truncate(0)
        with naming_full_disk(path.parent):
            file.write(str(os.getpid()).encode())
        yield


def is_held(home: Home, run_id: str) -> bool:
    """Whether a living process works on the run."""
    try:
        with _path(home, run_id).open() as file:
            return not _try(file.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _path(home: Home, run_id: str) -> Path:
    return home.run(run_id) / "lock"


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
