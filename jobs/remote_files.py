"""Files of a server elsewhere: sent to it once, and brought here whole.

Used by the verbs that take or give files with `--url`. Invariants: neither way a file stands whole
in memory; what is brought comes in order, each byte once, however often the connection breaks, and
its end is told only of a file that has the size and the checksum that the server names.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.remote import Remote
from jobs.sent_file import changed, sent_name
from mulm.checksum import hash_file
from mulm.errors import (
    CorruptError,
    DataError,
    NotFoundError,
    NotRunningError,
    OverloadedError,
    RateLimitedError,
    UnreachableError,
)
from mulm.refs import new_id

_FILES = "/v1/files"
_PURPOSE = "user_data"
_PAUSES_S = (0.5, 1.0, 3.0, 10.0)
"""Before each further try that has brought nothing."""
_LONGEST_PAUSE_S = 60.0
"""Also where a server asks for more."""
_SILENCE_S = 300.0
"""A server whose store lies elsewhere may fetch the whole file before it sends the first byte."""
_PAGE = 1000
"""Files, in a list: a client of months has thousands."""
_PASSING = (UnreachableError, NotRunningError, OverloadedError, RateLimitedError)
_PARTIAL = 206


@dataclass(frozen=True, slots=True)
class StoredThere:
    """A file as the server tells it."""

    id: str
    size_bytes: int
    sha256: str


class RemoteFiles:
    """The files of one server.

    Args:
        remote: The server.
        sleep: Waits some seconds.
    """

    def __init__(self, remote: Remote, sleep: Callable[[float], None] = time.sleep) -> None:
        self._remote, self._sleep = remote, sleep
        self._id_by_content: dict[tuple[str, str], str] | None = None

    def send(self, path: Path) -> str:
        """Have the server hold a file; returns its id. What it holds already is not sent again.

        Raises:
            DataError: it cannot be read.
            ConflictError: it is changed while it is sent.
            MulmError: what the server says.
        """
        try:
            content = hash_file(path), sent_name(path)
            known = self._known()
            if content not in known:
                known[content] = self._sent(path, content[0])
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        return known[content]

    def find(self, file_id: str) -> StoredThere:
        """What the server knows of a file. Raises NotFoundError."""
        told = self._remote.get(f"{_FILES}/{file_id}")
        return StoredThere(str(told["id"]), int(told["bytes"]), str(told["sha256"]))

    def content(self, file: StoredThere, note: Callable[[int], None]) -> Iterator[bytes]:
        """The bytes of a file; `note` hears how many have come.

        Raises:
            UnreachableError: connections have broken several times without a byte between.
            CorruptError: it is not the file that the server has promised.
            MulmError: what the server says.
        """
        digest, done_bytes, n_failed = hashlib.sha256(), 0, 0
        while done_bytes < file.size_bytes:
            try:
                for chunk in self._from(file, done_bytes):
                    done_bytes, n_failed = done_bytes + len(chunk), 0
                    if done_bytes > file.size_bytes:
                        raise _other(file, "it is longer")
                    digest.update(chunk)
                    note(done_bytes)
                    yield chunk
                if done_bytes < file.size_bytes:
                    raise UnreachableError(f"{self._remote.url} has ended too early")
            except _PASSING as error:
                if n_failed == len(_PAUSES_S):
                    raise _broken(file, done_bytes, error.message) from None
                asked_s = float(str(error.details.get("retry_after_s", 0.0)))
                self._sleep(max(_PAUSES_S[n_failed], min(asked_s, _LONGEST_PAUSE_S)))
                n_failed += 1
        if digest.hexdigest() != file.sha256:
            raise _other(file, "its checksum is another")

    def _known(self) -> dict[tuple[str, str], str]:
        """Ids by checksum and name."""
        if self._id_by_content is None:
            there = self._remote.items(_FILES, _PAGE, purpose=_PURPOSE)
            self._id_by_content = {(one["sha256"], one["filename"]): one["id"] for one in there}
        return self._id_by_content

    def _sent(self, path: Path, sha256: str) -> str:
        """The key is of this sending alone: what came whole before is known by its checksum."""
        told = self._remote.upload(path, _PURPOSE, new_id("send"))
        file_id = str(told["id"])
        if told["sha256"] != sha256:
            with suppress(NotFoundError):
                self._remote.delete(f"{_FILES}/{file_id}")
            raise changed(path)
        return file_id

    def _from(self, file: StoredThere, done_bytes: int) -> Iterator[bytes]:
        """What follows the bytes that have come; a server without ranges begins again."""
        headers = {"Accept-Encoding": "identity"}  # else its bytes are not those of the file
        if done_bytes:
            headers["Range"] = f"bytes={done_bytes}-"
        path = f"{_FILES}/{file.id}/content"
        with self._remote.stream(path, headers, _SILENCE_S) as reply:
            place = reply.headers.get("content-range", "")
            if reply.status_code == _PARTIAL and not place.startswith(f"bytes {done_bytes}-"):
                raise _other(file, f"its part is {place[:64]!r}")
            had_bytes = 0 if reply.status_code == _PARTIAL else done_bytes
            for chunk in reply.iter_raw():
                fresh = chunk[had_bytes:]
                had_bytes -= len(chunk) - len(fresh)
                if fresh:
                    yield fresh


def _other(file: StoredThere, why: str) -> CorruptError:
    return CorruptError(
        f"{file.id} is not the file that the server has promised: {why}",
        hint="try again; nothing of it is kept here",
    )


def _broken(file: StoredThere, done_bytes: int, why: str) -> UnreachableError:
    return UnreachableError(
        f"{why}; of {file.id}, {done_bytes} of {file.size_bytes} bytes had come",
        hint="the same command begins again; nothing of it is kept here",
    )
