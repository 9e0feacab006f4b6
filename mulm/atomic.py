"""Atomic files: a name either holds the whole content or does not exist.

Everything durable is written through here: to a temporary name beside the target,
flushed to disk, renamed. A full disk raises `NoSpaceError`, a path that cannot be written
`ConfigError`, and both leave the target as it was.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mulm.errors import ConfigError, ConflictError, NoSpaceError

_UNWRITABLE = (
    errno.EACCES, errno.ENOENT, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL,
)  # fmt: skip
"""Errors that say that a path can be no file or folder of ours."""


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` under `path`; afterwards it survives a power cut.

    Raises:
        NoSpaceError: the disk is full; `path` is untouched.
        ConfigError: `path` cannot be written.
    """
    with atomic_file(path, mode) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A binary file to fill; it takes the name `path` when the block ends without error."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with naming_full_disk(path.parent):
        with _naming_unwritable(path):
            _make_levels(path.parent, 0o777)
            opened = _open_new(temporary, mode)
        try:
            with opened as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with _naming_unwritable(path):
                temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def open_new(path: Path, mode: int = 0o644) -> BinaryIO:
    """A file that is not there yet, to be written; its folder is.

    Raises:
        NoSpaceError: the disk is full.
        ConfigError: `path` cannot be written, or exists.
    """
    with naming_full_disk(path.parent), _naming_unwritable(path):
        return _open_new(path, mode)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it takes the name `path` when the block ends without error.

    Raises:
        ConflictError: `path` exists.
        NoSpaceError: the disk is full; nothing is left behind.
        ConfigError: `path` cannot be made.
    """
    require_absent(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with naming_full_disk(path.parent):
        try:
            with _naming_unwritable(path):
                _make_levels(temporary, 0o777)
            yield temporary
            require_absent(path)
            temporary.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def require_absent(path: Path) -> None:
    """Refuse to write over something, or what can be no path. Raises ConflictError, ConfigError."""
    with _naming_unwritable(path):
        is_there = path.exists() or path.is_symlink()
    if is_there:
        raise ConflictError(f"{str(path)!r} exists already", hint="name another path")


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and its parents so that they survive a power cut; harmless when it exists.

    Raises:
        NoSpaceError: the disk is full.
    """
    with naming_full_disk(folder):
        _make_levels(folder, mode)


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Raise NoSpaceError in the place of the system's error for a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpaceError(
            f"no space left on the disk of {str(folder)!r}",
            hint="free some space and run the same command again; nothing was lost",
        ) from None


def sync_file(path: Path) -> None:
    """Make what was written to a file durable."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_new(path: Path, mode: int) -> BinaryIO:
    return open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb")


@contextmanager
def _naming_unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise ConfigError(
            f"{str(path)!r} cannot be written: {error.strerror}",
            hint="name a path in a folder that you may write to",
        ) from None


def _make_levels(folder: Path, mode: int) -> None:
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for level in reversed(missing):
        level.mkdir(mode=mode, exist_ok=True)
        sync_folder(level.parent)
