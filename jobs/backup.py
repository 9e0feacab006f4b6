"""Writes a backup of an installation, while it runs: `mulm backup`.

Called by the command line; the file is described in `jobs.backup_tar`. Invariants: the database is
as of one moment, and everything that it names then is in the backup, whole, or there is no backup;
nothing in it lets somebody in: of keys it has digests, and the secret that they were made with; the
first key and Ray's token are made anew where it is restored.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_args

from jobs.backup_tar import KEY_SECRET, LEDGER, Header, Writer, is_member
from jobs.out_path import require_folder
from jobs.progress import Progress
from mulm import __version__
from mulm.atomic import atomic_file, require_absent
from mulm.errors import CorruptError, NotFoundError
from mulm.gc import checksums_in
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.lineage import with_ancestors
from mulm.manifest import Kind, is_manifest_id
from mulm.sqlite_errors import named_errors
from mulm.store import Store

_CHECKPOINTS = "checkpoints"
_LEFT_OUT = frozenset({"lock"})


@dataclass(frozen=True, slots=True)
class _File:
    """What goes into the backup: a file, and what its name there must say of it."""

    name: str
    path: Path
    size_bytes: int
    sha256: str | None = None

    @classmethod
    def of(cls, name: str, path: Path, sha256: str | None = None) -> _File:
        """A file with its size of now; nothing of one that was just removed, which is left out."""
        try:
            return cls(name, path, path.stat().st_size, sha256)
        except FileNotFoundError:
            return cls(name, path, 0, sha256)


_Group = list[_File]
"""Files that belong together: all of them or none, where they may vanish meanwhile."""


def back_up(
    home: Home,
    target: Path,
    progress: Progress,
    *,
    with_checkpoints: bool = True,
    has_origin: bool = False,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Write a backup; returns what is in it.

    Args:
        home: The installation, up or not.
        target: The file to write, which must not exist.
        progress: Shows how far it is.
        with_checkpoints: Also what runs go on from.
        has_origin: The store is a cache of one elsewhere: what is only there stays there.
        clock: The time.

    Raises:
        NotFoundError: there is nothing to back up, or a file that a version needs is missing.
        CorruptError: the database or a file is damaged.
        ConflictError: the target exists.
        NoSpaceError: the disk is full; nothing is left behind.
    """
    if not home.ledger.exists():
        raise NotFoundError(f"there is no installation in {str(home.root)!r}", hint="set MULM_HOME")
    require_absent(target)
    with tempfile.TemporaryDirectory(prefix=".mulm-backup-", dir=_folder(target)) as scratch:
        ledger = _snapshot(home, Path(scratch) / LEDGER)
        versions = _versions(home, ledger, has_origin)
        with Ledger(ledger) as facts:
            n_runs = len(facts.runs())
        uploads = _uploads(home, ledger, has_origin)
        secret = [_File.of(KEY_SECRET, home.key_secret)] if home.key_secret.exists() else []
        first = [[_File.of(LEDGER, ledger), *secret]]
        groups = _each_once([*first, *uploads, *versions, *_runs(home, with_checkpoints)])
        size_bytes = sum(file.size_bytes for group in groups for file in group)
        header = Header(code_version=__version__, created_s=clock(), size_bytes=size_bytes)
        with atomic_file(target, mode=0o600) as file, Writer(file, header) as writer:
            count = _write(writer, groups, size_bytes, progress)
    return {
        "backup": str(target),
        "size_bytes": target.stat().st_size,
        "files": count,
        "versions": sum(is_manifest_id(file.path.stem) for (file, *_) in versions),
        "runs": n_runs,
    }


def _each_once(groups: Iterable[_Group]) -> list[_Group]:
    """Without files that an earlier group has: what was uploaded may be in a version too."""
    seen, found = set[str](), []
    for group in groups:
        found.append([file for file in group if file.name not in seen])
        seen.update(file.name for file in group)
    return [group for group in found if group]


def _folder(target: Path) -> Path:
    require_folder(target)
    return target.parent


def _snapshot(home: Home, path: Path) -> Path:
    """The database as of now, whole, in one file."""
    with (
        named_errors(home.ledger),
        closing(sqlite3.connect(f"{home.ledger.as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(path)) as copy,
    ):
        source.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
        (said,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise CorruptError(f"the ledger is damaged: {said}", hint="`mulm doctor` says more")
    return path


def _versions(home: Home, ledger: Path, has_origin: bool) -> list[_Group]:
    """Each version that the database needs, with the files that no earlier one has brought."""
    store, seen = Store(home.store), set[str]()
    there = set(store.manifest_ids())
    with Ledger(ledger) as facts:
        named = {v.manifest_id for kind in get_args(Kind) for v in facts.versions(kind)}
        named |= {
            text
            for run in facts.runs()
            if not run.has_ended
            for text in run.texts
            if is_manifest_id(text) and text in there
        }
    if not has_origin and (lost := sorted(named - there)):
        raise _missing(lost[0])
    manifests = with_ancestors(store, sorted(named & there))
    groups = []
    for manifest in manifests.values():
        blobs = [entry for entry in manifest.blobs if entry.sha256 not in seen]
        seen.update(entry.sha256 for entry in blobs)
        files = [_blob(home, entry.sha256) for entry in blobs]
        lost_files = [file for file in files if not file.path.exists()]
        if lost_files and not has_origin:
            raise _missing(lost_files[0].name)
        name = f"manifests/{manifest.id}.json"
        whole = [file for file in files if file not in lost_files]
        groups.append([_File.of(f"store/{name}", home.store / name), *whole])
    return [*groups, *_steps(home, set(manifests) | seen)]


def _uploads(home: Home, ledger: Path, has_origin: bool) -> list[_Group]:
    """Files that clients have uploaded, also those that only a run still reads."""
    with Ledger(ledger) as facts:
        named = {file.sha256 for file in facts.files()}
        read = set[str]().union(*(checksums_in(run) for run in facts.runs() if not run.has_ended))
    files = [_blob(home, sha256) for sha256 in sorted(named | read)]
    lost = [file for file in files if not file.path.exists()]
    if not has_origin and (missing := [file for file in lost if file.sha256 in named]):
        raise _missing(missing[0].name)
    return [[file] for file in files if file not in lost]


def _blob(home: Home, sha256: str) -> _File:
    inner = f"blobs/{sha256[:2]}/{sha256}"
    return _File.of(f"store/{inner}", home.store / inner, sha256)


def _steps(home: Home, there: set[str]) -> Iterator[_Group]:
    """Markers of finished steps, as far as their results are in the backup."""
    for path in sorted((home.store / "steps").glob("*.json")):
        name = f"store/steps/{path.name}"
        try:
            values = json.loads(path.read_bytes())
            results = [values["manifest"]] if "manifest" in values else values["blobs"]
            ids = {one if isinstance(one, str) else one["sha256"] for one in results}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # what cannot be read is not known to be finished
        if ids and ids <= there and is_member(name):
            yield [_File.of(name, path)]


def _runs(home: Home, with_checkpoints: bool) -> Iterator[_Group]:
    """What lies in the folders of runs; a checkpoint is one group."""
    for run in sorted((home.root / "runs").glob("run_*")):
        checkpoints: dict[str, _Group] = {}
        for path in sorted(Path(at, name) for at, _, names in os.walk(run) for name in names):
            inner = path.relative_to(run)
            name = f"runs/{run.name}/{inner.as_posix()}"
            if not path.is_file() or path.is_symlink() or not is_member(name):
                continue
            if inner.parts[0] == _CHECKPOINTS and len(inner.parts) > 2:
                checkpoints.setdefault(inner.parts[1], []).append(_File.of(name, path))
            elif inner.name not in _LEFT_OUT:
                yield [_File.of(name, path)]
        yield from checkpoints.values() if with_checkpoints else ()


def _write(writer: Writer, groups: list[_Group], size_bytes: int, progress: Progress) -> int:
    done_bytes, count = 0, 0
    for group in groups:
        for file, source in _opened(group):
            # What grows goes in as far as it had grown: the header says how much comes.
            file_bytes = min(file.size_bytes, os.fstat(source.fileno()).st_size)
            found = writer.add(file.name, source, file_bytes)
            if file.sha256 not in (None, found):
                raise CorruptError(
                    f"{file.name!r} is damaged, so there is no backup",
                    hint="`mulm data verify` says what it belongs to, and how to mend it",
                )
            done_bytes, count = done_bytes + file_bytes, count + 1
            progress.event("progress", _told(done_bytes, size_bytes))
    writer.seal()
    progress.clear()
    return count


def _opened(group: _Group) -> Iterator[tuple[_File, BinaryIO]]:
    """The files of a group, open; nothing of a checkpoint that was removed meanwhile."""
    if not group[0].name.startswith("runs/"):
        for file in group:
            try:
                source = file.path.open("rb")
            except FileNotFoundError:
                raise _missing(file.name) from None
            with source:
                yield file, source
        return
    with ExitStack() as stack:
        try:  # all first: what is removed after that can still be read
            sources = [stack.enter_context(file.path.open("rb")) for file in group]
        except FileNotFoundError:
            return
        yield from zip(group, sources, strict=True)


def _told(done_bytes: int, size_bytes: int) -> dict[str, Any]:
    return {"stage": "backup", "done": done_bytes >> 20, "total": size_bytes >> 20, "unit": "MB"}


def _missing(what: str) -> NotFoundError:
    return NotFoundError(
        f"{what!r} is missing from the store, so there is no backup",
        hint="`mulm data verify` says what it belongs to; the command that made it mends it",
    )
