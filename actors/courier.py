"""Carries a run's checkpoints and its model between a worker's machine and the head's.

Made by `actors.train_context` on each worker of a run; where the worker shares the head's home
there is none, and files are where they belong. Invariants: a piece is in memory at a time; a
sending that broke goes on where it was; the head has checked all that it has taken; before a worker
begins, its machine has the head's checkpoints and no other.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from actors.remote_answer import answer
from actors.store_host import new_mark, store_handle
from mulm.atomic import atomic_file, make_folder, write_atomic
from mulm.checkpoint_files import CheckpointFiles, parse_files, read_files
from mulm.checkpoint_shelf import CheckpointShelf
from mulm.checksum import hash_file
from mulm.errors import CorruptError, DeadlineError
from mulm.home import Home
from mulm.manifest import BlobEntry
from mulm.origin import CHUNK_BYTES
from mulm.store import Store

log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 60.0
CHECK_TIMEOUT_S = 600.0
"""For what makes the head hash a whole file."""

Call = Callable[..., Any]


class Courier:
    """Between this machine and the head, for one run.

    Args:
        call: Calls a method of the head's `StoreHost`: name, deadline in seconds, arguments.
        run_id: The run.
        folder: Its folder here.
    """

    def __init__(self, call: Call, run_id: str, folder: Path) -> None:
        self._call, self._run_id, self._folder = call, run_id, folder

    def fetch(self, *, is_whole_shelf: bool) -> None:
        """Make the checkpoints here those of the head; unless all are needed, the newest alone.

        Workers of one machine do so one after the other.

        Raises:
            CorruptError: a file of the head is damaged.
            DeadlineError, NotRunningError: the head does not answer.
        """
        with _alone(self._folder):
            shelf = CheckpointShelf(self._folder)
            there = [
                parse_files(content)
                for content in self._call("checkpoints", CALL_TIMEOUT_S, self._run_id)
            ]
            shelf.forget_others(there)
            for files in there if is_whole_shelf else there[-1:]:
                self._fetch_one(shelf, files)

    def send_checkpoint(self, path: Path, keep: int, spared_step: int | None) -> None:
        """Bring a checkpoint to the head, which keeps the newest `keep` and the spared one.

        Raises:
            CorruptError: it is damaged or not whole here, or came damaged.
            NoSpaceError, ConfigError: the head has no room for it, or takes none so large.
            DeadlineError, NotRunningError: the head does not answer.
        """
        files = read_files(path)
        if files is None:
            raise CorruptError(
                f"the checkpoint {path.name} has no manifest", hint="look at the disk"
            )
        with ExitStack() as stack:  # opened at once: its writer may remove it meanwhile
            try:
                opened = {
                    name: stack.enter_context((path / name).open("rb")) for name in files.files
                }
            except FileNotFoundError:
                raise CorruptError(
                    f"the checkpoint {path.name} lacks a file", hint="look at the disk"
                ) from None
            for name, (sha256, size_bytes) in files.files.items():
                self._send(self._run_id, name, opened[name], sha256, size_bytes)
        self._call(
            "keep_checkpoint", CHECK_TIMEOUT_S, self._run_id, files.content, keep, spared_step
        )

    def send_version(self, store: Store, manifest_id: str) -> None:
        """Bring a version to the head's store. Raises as `send_checkpoint` does."""
        manifest = store.load(manifest_id)
        for entry in manifest.blobs:
            if not self._call("has_blob", CHECK_TIMEOUT_S, entry.sha256, entry.size_bytes):
                self._send_blob(store, entry)
        self._call("keep_version", CHECK_TIMEOUT_S, manifest_id, manifest.to_bytes())

    def _send_blob(self, store: Store, entry: BlobEntry) -> None:
        with store.path(entry).open("rb") as file:
            self._send("", entry.name, file, entry.sha256, entry.size_bytes)
        self._call("keep_blob", CHECK_TIMEOUT_S, entry.sha256, entry.size_bytes)

    def _send(self, run_id: str, name: str, file: BinaryIO, sha256: str, size_bytes: int) -> None:
        """Send what the head lacks of a file; in pieces, as often as would send it twice."""
        have = self._call("arrived", CALL_TIMEOUT_S, run_id, sha256)
        for _ in range(2 * (size_bytes // CHUNK_BYTES + 1)):
            file.seek(have)
            piece = file.read(CHUNK_BYTES)
            have = self._call("add", CALL_TIMEOUT_S, run_id, sha256, size_bytes, have, piece)
            if have >= size_bytes:
                return
        raise DeadlineError(
            f"the head does not keep what is sent of {name!r}",
            hint="do two machines send the same file? Run the same command again",
        )

    def _fetch_one(self, shelf: CheckpointShelf, files: CheckpointFiles) -> None:
        def fill(name: str, target: Path) -> None:
            with atomic_file(target) as file:
                for piece in self._pieces(files, name):
                    file.write(piece)
            if hash_file(target) != files.files[name][0]:
                raise CorruptError(
                    f"the head's checkpoint {files.name} is damaged: {name!r} does not match its"
                    " checksum",
                    hint="delete that checkpoint on the head and run the same command again",
                )

        shelf.put(files, fill)

    def _pieces(self, files: CheckpointFiles, name: str) -> Iterator[bytes]:
        start, size_bytes = 0, files.files[name][1]
        while start < size_bytes:
            piece: bytes = self._call(
                "checkpoint_piece", CALL_TIMEOUT_S, self._run_id, files.step, name, start
            )
            if not piece:
                return
            start += len(piece)
            yield piece


def find_courier(home: Home, run_id: str) -> Courier | None:
    """One for this process's machine; None where it has the head's own home.

    Raises:
        NotRunningError: this process is connected to no cluster of ours.
    """
    handle = store_handle()

    def call(method: str, timeout_s: float, *arguments: Any) -> Any:
        return answer(getattr(handle, method).remote(*arguments), "store", method, timeout_s)

    home.create()
    mark = home.root / new_mark()
    write_atomic(mark, b"")
    try:
        is_shared = call("sees", CALL_TIMEOUT_S, mark.name)
    finally:
        mark.unlink(missing_ok=True)
    return None if is_shared else Courier(call, run_id, home.run(run_id))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    make_folder(folder)
    with (folder / ".fetching").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
