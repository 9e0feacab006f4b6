"""Atomic files: a name either holds the whole content or does not exist.

Everything durable is written through here: to a temporary name beside the target,
flushed to disk, renamed. A full disk raises `NoSpaceError` and leaves the target as it was.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mulm.errors import NoSpaceError


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` under `path`; afterwards it survives a power cut.

    Raises:
        NoSpaceError: the disk is full; `path` is untouched.
    """
    with atomic_file(path, mode) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A binary file to fill; it takes the name `path` when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(
                f"no space left on the disk of {str(path.parent)!r}",
                hint="free some space and run the same command again; nothing was lost",
            ) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
