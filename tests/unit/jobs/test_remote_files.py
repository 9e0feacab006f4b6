"""Files of a server come whole over broken connections, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from jobs.remote import ConnectionLostError, Remote
from jobs.remote_files import RemoteFiles
from jobs.sent_file import SentFile
from mulm.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    CorruptError,
    DataError,
    MulmError,
    NotFoundError,
    UnreachableError,
)
from mulm.settings import Settings

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass(frozen=True)
class Try:
    """How one request for the bytes is answered."""

    n_bytes: int = len(CONTENT)
    """So many are sent before the connection breaks, or all."""
    has_ranges: bool = True
    content: bytes = CONTENT
    status: int = 200
    shift: int = 0
    """The range begins elsewhere by so many bytes."""
    retry_after: str = ""


class Giver(BaseHTTPRequestHandler):
    """A server with one file."""

    tries: ClassVar[list[Try]] = []
    ranges: ClassVar[list[str | None]] = []
    told: ClassVar[dict[str, object]] = {}

    def log_message(self, *args: object) -> None:
        return

    def do_GET(self) -> None:
        if not self.path.endswith("/content"):
            self._reply(200, json.dumps(self.told).encode(), {})
            return
        self.ranges.append(self.headers.get("Range"))
        this = self.tries.pop(0)
        if this.status != 200:
            headers = {"Retry-After": this.retry_after} if this.retry_after else {}
            self._reply(this.status, b'{"error": {"code": "x", "message": "not now"}}', headers)
            return
        asked = (self.headers.get("Range") or "").removeprefix("bytes=").rstrip("-")
        begin = int(asked) if asked and this.has_ranges else 0
        body, headers = this.content[begin:], {}
        if asked and this.has_ranges:
            at = f"bytes {begin + this.shift}-{len(this.content) - 1}/{len(this.content)}"
            headers["Content-Range"] = at
        self._reply(206 if headers else 200, body, headers, this.n_bytes)

    def _reply(
        self, status: int, body: bytes, headers: dict[str, str], n_bytes: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:n_bytes])
        self.close_connection = True


@dataclass
class There:
    files: RemoteFiles
    slept: list[float]

    def fetch(self, *tries: Try) -> bytes:
        Giver.tries[:] = tries
        Giver.ranges.clear()
        told: list[int] = []
        found = self.files.find("file_1")
        content = b"".join(self.files.content(found, told.append))
        assert told == sorted(told)
        assert told[-1] == len(content)
        return content


@pytest.fixture
def there() -> Iterator[There]:
    Giver.told = {"id": "file_1", "bytes": len(CONTENT), "sha256": SHA256}
    http = ThreadingHTTPServer(("127.0.0.1", 0), Giver)
    Thread(target=http.serve_forever, daemon=True).start()
    slept: list[float] = []
    with Remote(f"http://127.0.0.1:{http.server_port}", "key", sleep=slept.append) as remote:
        yield There(RemoteFiles(remote, slept.append), slept)
    http.shutdown()
    http.server_close()


def test_a_file_comes_in_one_piece(there: There) -> None:
    assert there.fetch(Try()) == CONTENT
    assert (Giver.ranges, there.slept) == ([None], [])


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_broken_connection_is_gone_on_from_or_begun_again(there: There, has_ranges: bool) -> None:
    tries = [Try(100_000, has_ranges), Try(250_000, has_ranges), Try(has_ranges=has_ranges)]
    assert there.fetch(*tries) == CONTENT
    asked = ["bytes=100000-", "bytes=350000-" if has_ranges else "bytes=250000-"]
    assert Giver.ranges == [None, *asked]


def test_a_server_that_is_away_for_a_moment_is_waited_for(there: There) -> None:
    assert there.fetch(Try(5000), Try(status=503), Try(0), Try(status=429), Try()) == CONTENT
    assert there.slept == [0.5, 1.0, 3.0, 10.0]


def test_a_server_that_asks_for_patience_has_it(there: There) -> None:
    busy = [Try(status=429, retry_after=n) for n in ("7", "0", "100000", "soon")]
    assert there.fetch(*busy, Try()) == CONTENT
    assert there.slept == [7.0, 1.0, 60.0, 10.0]


def test_each_byte_that_comes_begins_the_patience_anew(there: There) -> None:
    n = 12
    tries = [Try(len(CONTENT) // n) for _ in range(n - 1)]
    assert there.fetch(*tries, Try()) == CONTENT
    assert set(there.slept) == {0.5}


def test_without_a_further_byte_it_ends_with_what_had_come(there: There) -> None:
    with pytest.raises(UnreachableError, match=f"1000 of {len(CONTENT)} bytes") as caught:
        there.fetch(Try(1000), *[Try(0)] * 4)
    assert "begins again" in caught.value.hint
    with pytest.raises(UnreachableError):  # a server without ranges that never comes further
        there.fetch(*[Try(1000, has_ranges=False)] * 5)


@pytest.mark.parametrize(
    ("tries", "words"),
    [
        ([Try(content=bytes(len(CONTENT)))], "checksum"),
        ([Try(content=CONTENT * 2, n_bytes=len(CONTENT) * 2)], "longer"),
        ([Try(1000), Try(shift=1)], "its part is 'bytes 1001-"),
    ],
)
def test_another_file_is_refused(there: There, tries: list[Try], words: str) -> None:
    with pytest.raises(CorruptError, match=words):
        there.fetch(*tries)


def test_a_file_that_ends_earlier_than_was_promised_is_never_whole(there: There) -> None:
    with pytest.raises(UnreachableError, match="too early"):
        there.fetch(*[Try(content=CONTENT[:1000])] * 6)


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFoundError), (401, AuthError), (500, MulmError)]
)
def test_what_the_server_says_is_raised_at_once(
    there: There, status: int, kind: type[MulmError]
) -> None:
    with pytest.raises(kind):
        there.fetch(Try(1000), Try(status=status))
    assert len(there.slept) == 1


# Uploads, to the real API -----------------------------------------------------------------------


def test_what_the_server_holds_is_not_sent_again(server, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"some bytes")
    sent: list[Path] = []
    upload = Remote.upload

    def counted(self: Remote, path: Path, purpose: str, key: str) -> object:
        sent.append(path)
        return upload(self, path, purpose, key)

    monkeypatch.setattr(Remote, "upload", counted)
    with Remote(server.url, server.key) as remote:
        file_id = RemoteFiles(remote).send(path)
        assert RemoteFiles(remote).send(path) == file_id
        files = RemoteFiles(remote)
        assert [files.send(path), files.send(path)] == [file_id] * 2
        assert len(sent) == 1
        other = tmp_path / "b.txt"
        other.write_bytes(b"some bytes")
        assert files.send(other) != file_id
        found = files.find(file_id)
        assert b"".join(files.content(found, lambda _bytes: None)) == b"some bytes"
        server.facts.remove_file(file_id)
        again = RemoteFiles(remote).send(path)
        assert again != file_id
        assert server.facts.file(again).name == "a.txt"


@pytest.mark.parametrize(
    "name",
    ['a"b.txt', "%22.txt", "back\\slash", "tab\there", "\x1b[0m\n", "\U0001f600 é", "caf\udce9"],
)
def test_a_file_of_any_name_is_sent_once(server, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"some bytes")
    with Remote(server.url, server.key) as remote:
        file_id = RemoteFiles(remote).send(path)
        assert RemoteFiles(remote).send(path) == file_id
    assert len(server.facts.files()) == 1


CHANGES = {"another": b"other byte", "longer": b"some bytes and more", "shorter": b"some"}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_sent_is_none(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"some bytes")
    upload = Remote.upload

    def changing(self: Remote, path: Path, purpose: str, key: str) -> object:
        path.write_bytes(CHANGES[change])
        return upload(self, path, purpose, key)

    with Remote(server.url, server.key) as remote:
        files = RemoteFiles(remote)
        with monkeypatch.context() as patch:
            patch.setattr(Remote, "upload", changing)
            with pytest.raises(ConflictError, match="changed while it was sent"):
                files.send(path)
        assert server.facts.files() == []
        path.write_bytes(b"some bytes")
        assert server.facts.file(files.send(path)).size_bytes == 10


@pytest.mark.parametrize("size_bytes", [1 << 20, 12 << 20])
def test_a_file_whose_end_moves_while_it_is_sent_is_told(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    """Its length was announced."""
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(8 << 20))
    read = SentFile.read

    def moving(self: SentFile, n_bytes: int) -> bytes:
        os.truncate(path, size_bytes)
        return read(self, n_bytes)

    with Remote(server.url, server.key) as remote:
        files = RemoteFiles(remote)
        with monkeypatch.context() as patch:
            patch.setattr(SentFile, "read", moving)
            if size_bytes < 8 << 20:
                with pytest.raises(ConflictError, match="changed while it was sent"):
                    files.send(path)
            else:
                assert server.facts.file(files.send(path)).size_bytes == 8 << 20
        if size_bytes < 8 << 20:
            assert server.facts.files() == []
            assert server.facts.file(files.send(path)).size_bytes == size_bytes


def test_a_damaged_file_is_never_whole(server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.openai_api.files._CHECKED_BEFORE_BYTES", 0)
    blob = server.store.put("x", CONTENT)
    server.facts.add_file("file_1", "x", "user_data", blob.size_bytes, blob.sha256)
    place = server.store.path(blob)
    place.chmod(0o644)
    place.write_bytes(CONTENT[::-1])
    with Remote(server.url, server.key, sleep=lambda _: None) as remote:
        files = RemoteFiles(remote, lambda _: None)
        found, came = files.find("file_1"), bytearray()

        def read() -> None:
            with remote.stream("/v1/files/file_1/content", {}) as reply:
                for chunk in reply.iter_raw():
                    came.extend(chunk)

        with pytest.raises(ConnectionLostError):
            read()
        assert len(CONTENT) // 2 < len(came) < len(CONTENT)
        with pytest.raises(CorruptError, match="checksum"):
            list(files.content(found, lambda _: None))


def test_what_is_known_there_is_read_in_few_pages(server, tmp_path: Path) -> None:
    for number in range(120):
        server.facts.add_file(f"file_{number}", f"{number}.txt", "user_data", 1, "0" * 64)
    asked: list[str] = []
    with Remote(server.url, server.key) as remote:
        remote._http.event_hooks["request"].append(lambda request: asked.append(request.method))
        path = tmp_path / "a.txt"
        path.write_bytes(b"some bytes")
        RemoteFiles(remote).send(path)
    assert asked == ["GET", "POST"]


def test_a_file_that_cannot_be_sent_is_told(server, tmp_path: Path) -> None:
    with Remote(server.url, server.key) as remote:
        files = RemoteFiles(remote)
        with pytest.raises(DataError, match="No such file"):
            files.send(tmp_path / "nobody")
        (tmp_path / "empty").touch()
        with pytest.raises(MulmError, match="empty"):
            files.send(tmp_path / "empty")


def test_a_file_that_is_too_large_there_is_told(server, tmp_path: Path) -> None:
    server.restart(Settings(max_upload_bytes=1000))
    path = tmp_path / "large"
    path.write_bytes(bytes(5 << 20))
    with Remote(server.url, server.key) as remote, pytest.raises(ConfigError, match="1000 bytes"):
        RemoteFiles(remote).send(path)
