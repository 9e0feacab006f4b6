"""Brings a backup back: `mulm restore`.

Called by the command line; the file is described in `jobs.backup_tar`. Invariants: everything is
read and checked beside what is there before any of it takes its place; data that was there is moved
aside, never removed; the database comes last, so that it names nothing that is not there.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from actors.cluster import connect
from jobs.backup_tar import KEY_SECRET, LEDGER, Reader, opened, torn
from jobs.progress import Progress
from mulm.atomic import make_folder, naming_full_disk, sync_folder
from mulm.errors import ConflictError, CorruptError, NotRunningError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.run_lock import is_held, path_lock
from mulm.store import Store
from serve_app.keys import FIRST_KEY_NAME

_PARTS = (LEDGER, f"{LEDGER}-wal", f"{LEDGER}-shm", KEY_SECRET, "store", "runs")


def check_backup(file: Path, progress: Progress) -> dict[str, Any]:
    """Read a backup wholly and write nothing.

    Raises:
        NotFoundError: there is no such file.
        CorruptError: it is torn or damaged.
    """
    with opened(file) as backup:
        count = sum(1 for _ in _drained(backup, progress))
        return _described(file, backup, count)


def restore(
    home: Home,
    file: Path,
    progress: Progress,
    *,
    replaces: bool = False,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Put a backup in the place of what is there.

    Args:
        home: Where it goes; need not exist.
        file: The backup.
        progress: Shows how far it is.
        replaces: Also over data, which is moved aside.
        clock: The time, for the name of where data is moved.

    Raises:
        NotFoundError: there is no such file.
        CorruptError: the backup is torn or damaged; nothing was changed.
        ConflictError: the application is up, a run is under way, or there is data.
        NoSpaceError: the disk is too full; nothing was changed.
    """
    home.create()
    with path_lock(home.root / "up.lock", "the application"):  # nobody starts it meanwhile
        had_data = _require_idle(home, replaces)
        with opened(file) as backup, _staging(home) as staging:
            Store(staging).require_space(backup.header.size_bytes)
            count = _unpacked(backup, staging, progress)
            _require_whole(file, staging / LEDGER)
            aside = home.root / time.strftime("before-restore-%Y%m%d-%H%M%S", time.gmtime(clock()))
            _swap(home, staging, aside)
            if not had_data:
                shutil.rmtree(aside)
            told = _described(file, backup, count)
    return told | {"home": str(home.root), "moved_to": str(aside) if had_data else None}


def _require_idle(home: Home, replaces: bool) -> bool:
    """Whether there is data, if it may be replaced."""
    try:
        info = connect(home)
    except NotRunningError:
        pass
    else:
        raise ConflictError(
            f"the application is up: {info.dashboard_url}", hint="`mulm down` first"
        )
    had_data = _has_data(home)
    if had_data and not replaces:
        raise ConflictError(
            f"there is data in {str(home.root)!r}",
            hint="--replace moves it aside; or point MULM_HOME at another folder",
        )
    return had_data


def _has_data(home: Home) -> bool:
    """Whether anything was made here; a damaged database counts as data. Raises ConflictError."""
    if any((home.store / "blobs").glob("*/*")):
        return True
    if not home.ledger.exists():
        return False
    try:
        with Ledger(home.ledger) as facts:
            runs = facts.runs()
            if held := next((run.id for run in runs if is_held(home, run.id)), None):
                raise ConflictError(f"{held} is under way", hint=f"`mulm runs pause {held}` first")
            return bool(runs or [k for k in facts.valid_keys() if k.name != FIRST_KEY_NAME])
    except CorruptError:
        return True


@contextmanager
def _staging(home: Home) -> Iterator[Path]:
    """A folder beside the data, on the same disk."""
    folder = home.root / f".restore-{secrets.token_hex(6)}"
    make_folder(folder, mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpacked(backup: Reader, staging: Path, progress: Progress) -> int:
    count = 0
    with naming_full_disk(staging):
        for name, _size_bytes, chunks in _shown(backup, progress):
            path = staging / name
            path.parent.mkdir(parents=True, exist_ok=True)
            mode = 0o444 if name.startswith("store/") else 0o600
            with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as target:
                for chunk in chunks:
                    target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            count += 1
        for folder in (path for path in staging.rglob("*") if path.is_dir()):
            sync_folder(folder)
    return count


def _drained(backup: Reader, progress: Progress) -> Iterator[str]:
    for name, _size_bytes, chunks in _shown(backup, progress):
        for _chunk in chunks:
            pass
        yield name


def _shown(backup: Reader, progress: Progress) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    done_bytes, total = 0, backup.header.size_bytes >> 20
    for name, size_bytes, chunks in backup.members():
        yield name, size_bytes, chunks
        done_bytes += size_bytes
        told = {"stage": "restore", "done": done_bytes >> 20, "total": total, "unit": "MB"}
        progress.event("progress", told)
    progress.clear()


def _require_whole(file: Path, ledger: Path) -> None:
    """Whether the database opens; then what is older than this version has its new tables too."""
    if not ledger.exists():
        raise torn(file, "it holds no ledger")
    try:
        with closing(sqlite3.connect(ledger)) as database:
            (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
        with Ledger(ledger) as facts:
            facts.runs()
    except (sqlite3.Error, CorruptError) as error:
        raise torn(file, f"its ledger cannot be read: {error}") from None
    if said != "ok":
        raise torn(file, f"its ledger is damaged: {said}")


def _swap(home: Home, staging: Path, aside: Path) -> None:
    """Old data out, the database first; new data in, the database last."""
    make_folder(aside, mode=0o700)
    for part in _PARTS:
        if (home.root / part).exists():
            (home.root / part).rename(aside / part)
    sync_folder(aside)
    for part in reversed(_PARTS):
        if (staging / part).exists():
            (staging / part).rename(home.root / part)
    sync_folder(home.root)


def _described(file: Path, backup: Reader, count: int) -> dict[str, Any]:
    header = backup.header
    return {"backup": str(file), "files": count, "size_bytes": header.size_bytes} | {
        "created_s": header.created_s, "code_version": header.code_version,
    }  # fmt: skip
