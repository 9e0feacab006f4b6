"""The checkpoints of one run on one machine, as other machines bring and fetch them.

Called by `actors.store_host` on the head, and by `actors.courier` where a worker is elsewhere.
Invariants: a checkpoint that has its name is whole and was checked; bringing it twice is harmless;
one thread at a time changes the shelf.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from mulm.atomic import make_folder, naming_full_disk, sync_folder, write_atomic
from mulm.checkpoint_files import (
    MANIFEST,
    CheckpointFiles,
    checkpoints,
    is_whole,
    parse_files,
    prune_checkpoints,
    read_files,
    remove_checkpoint,
)
from mulm.errors import CorruptError, NotFoundError
from mulm.landing import LIMIT_BYTES, Landing


class CheckpointShelf:
    """Of the run that has this folder."""

    def __init__(self, run_folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = run_folder / "checkpoints"
        self.landing = Landing(run_folder / "incoming", limit_bytes)

    def manifests(self) -> list[bytes]:
        """What describes the checkpoints that are here, oldest first."""
        found = (read_files(path) for path in checkpoints(self.folder))
        return [files.content for files in found if files]

    def piece(self, step: int, name: str, start: int, size_bytes: int) -> bytes:
        """Some bytes of a checkpoint's file, for a reader who checks the whole; empty at its end.

        Raises:
            NotFoundError: there is no such file.
        """
        files = read_files(self.folder / f"step-{step:08d}")
        if files is None or name not in files.files:
            raise NotFoundError(f"no file {name!r} of step {step}")
        with (self.folder / files.name / name).open("rb") as file:
            file.seek(start)
            return file.read(size_bytes)

    def keep(self, manifest: bytes, keep: int, spared_step: int | None) -> None:
        """Make a checkpoint of files that have landed; those beyond the newest `keep` go.

        Raises:
            CorruptError: a file is not what the manifest says; nothing was made.
            NoSpaceError: the disk is full.
        """

        def fill(name: str, target: Path) -> None:
            sha256, size_bytes = files.files[name]
            self.landing.take(sha256, size_bytes, target)

        files = parse_files(manifest)
        try:
            self.put(files, fill)
        except CorruptError:
            self.landing.clear()  # the other files may be as bad: all are sent again
            raise
        prune_checkpoints(self.folder, keep, spared_step)
        self.landing.clear()

    def put(self, files: CheckpointFiles, fill: Callable[[str, Path], None]) -> None:
        """Make a checkpoint unless it is here; `fill` makes each file, and checks it."""
        target = self.folder / files.name
        if is_whole(target, files):
            return
        make_folder(self.folder)
        for leftover in self.folder.glob(".arriving-*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        partial = self.folder / f".arriving-{secrets.token_hex(4)}.tmp"
        try:
            with naming_full_disk(self.folder):
                partial.mkdir()
                for name in files.files:
                    fill(name, partial / name)
                write_atomic(partial / MANIFEST, files.content)
                if target.exists():
                    remove_checkpoint(target)
                partial.rename(target)
                sync_folder(self.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def forget_others(self, kept: list[CheckpointFiles]) -> None:
        """Remove the checkpoints that are not among these."""
        names = {files.name for files in kept}
        for path in checkpoints(self.folder):
            if path.name not in names:
                remove_checkpoint(path)
