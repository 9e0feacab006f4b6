"""Downloads from a hub on loopback: only what was promised is taken, and the token stays home."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mulm.errors import (
    AuthError,
    ConfigError,
    CorruptError,
    DeadlineError,
    NotFoundError,
)
from mulm.model import hf_hub
from mulm.model.hf_hub import Hub, parse_source

COMMIT = "c" * 40
FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 40}


class FakeHub(ThreadingHTTPServer):
    """Serves FILES as one repository, `own/er-less`; the fields below make it misbehave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.token = ""
        self.cut_after: list[int] = []
        """Bytes after which the next answers break off."""
        self.sent = dict(FILES)
        self.status = 200
        self.redirect_to = ""
        self.seen: list[tuple[str, str | None, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub, auth = self.server, self.headers["Authorization"]
        hub.seen.append((self.path, auth, self.headers["Range"]))
        if hub.status != 200:
            return self._send(hub.status, b"")
        if hub.token and auth != f"Bearer {hub.token}":
            return self._send(401, b"")
        if self.path.startswith("/api/models/own/er/revision/main"):
            return self._send(200, json.dumps(listing()).encode())
        prefix, _, name = self.path.rpartition("/")
        if prefix != f"/own/er/resolve/{COMMIT}" or name not in hub.sent:
            return self._send(404, b"")
        if hub.redirect_to and name.endswith(".safetensors"):
            self.send_response(302)
            self.send_header("Location", hub.redirect_to + self.path)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        content = hub.sent[name]
        begin = int((self.headers["Range"] or "bytes=0-")[6:-1])
        return self._send(206 if begin else 200, content[begin:])

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cuts = self.server.cut_after
        cut = cuts.pop(0) if cuts and "resolve" in self.path else None
        self.wfile.write(content[:cut])


def listing() -> dict[str, Any]:
    small, large = FILES["config.json"], FILES["model.safetensors"]
    blob = hashlib.sha1(b"blob %d\0" % len(small) + small).hexdigest()
    return {
        "sha": COMMIT,
        "siblings": [
            {"rfilename": "config.json", "size": len(small), "blobId": blob},
            {
                "rfilename": "model.safetensors", "size": len(large), "blobId": "0" * 40,
                "lfs": {"sha256": hashlib.sha256(large).hexdigest(), "size": len(large)},
            },
        ],
    }  # fmt: skip


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def fetch(hub: Hub, folder: Path) -> list[tuple[str, int, int]]:
    told: list[tuple[str, int, int]] = []
    snapshot = hub.snapshot("own/er")
    hub.download(snapshot, list(FILES), folder, lambda *said: told.append(said))
    return told


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_arrive_whole_and_only_once(server: FakeHub, tmp_path: Path) -> None:
    told = fetch(Hub(server.url), tmp_path)
    assert contents(tmp_path) == FILES
    assert told[-1] == ("model.safetensors", 10_240, 10_240)
    assert fetch(Hub(server.url), tmp_path) == []
    (tmp_path / "config.json").write_bytes(b'{"a": 2}')
    assert [name for name, *_ in fetch(Hub(server.url), tmp_path)] == ["config.json"]
    assert contents(tmp_path) == FILES


def test_a_broken_download_goes_on_where_it_was(server: FakeHub, tmp_path: Path) -> None:
    server.cut_after = [10_000, 4000, 1]
    fetch(Hub(server.url), tmp_path)
    assert contents(tmp_path) == FILES
    ranges = [begin for path, _, begin in server.seen if path.endswith("model.safetensors")]
    assert ranges == [None, "bytes=4000-", "bytes=4001-"]


def test_it_gives_up_after_some_tries_and_keeps_what_came(server: FakeHub, tmp_path: Path) -> None:
    server.cut_after = [10_000, 100, 100, 100, 100]
    with pytest.raises(DeadlineError) as error:
        fetch(Hub(server.url), tmp_path)
    assert "try again" in error.value.hint
    assert (tmp_path / "model.safetensors.part").stat().st_size == 400
    assert not (tmp_path / "model.safetensors").exists()
    fetch(Hub(server.url), tmp_path)
    assert contents(tmp_path) == FILES


@pytest.mark.parametrize("content", [b"x" * 10_240, b"short", b"long" * 10_000])
def test_what_was_not_promised_is_not_taken(
    server: FakeHub, tmp_path: Path, content: bytes
) -> None:
    server.sent["model.safetensors"] = content
    with pytest.raises((CorruptError, DeadlineError)):
        fetch(Hub(server.url), tmp_path)
    assert set(contents(tmp_path)) <= {"config.json", "model.safetensors.part"}


def test_the_token_is_sent_to_the_hub_alone(server: FakeHub, tmp_path: Path) -> None:
    server.token = "secret"
    with FakeHub() as elsewhere:
        thread = threading.Thread(target=elsewhere.serve_forever, args=(0.01,))
        thread.start()
        server.redirect_to = elsewhere.url
        fetch(Hub.from_env({"HF_ENDPOINT": server.url + "/", "HF_TOKEN": "secret\n"}), tmp_path)
        elsewhere.shutdown()
        thread.join()
    assert contents(tmp_path) == FILES
    assert {auth for _, auth, _ in server.seen} == {"Bearer secret"}
    assert [auth for _, auth, _ in elsewhere.seen] == [None]


def test_the_token_is_never_shown() -> None:
    assert "secret" not in repr(Hub(token="secret"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthError), (403, AuthError), (404, NotFoundError), (500, DeadlineError)],
)
def test_refusals(server: FakeHub, status: int, kind: type[Exception]) -> None:
    server.status = status
    with pytest.raises(kind):
        Hub(server.url).snapshot("own/er")


def test_other_failures(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError):
        Hub(server.url).snapshot("own/other")
    snapshot = Hub(server.url).snapshot("own/er")
    with pytest.raises(NotFoundError, match=r"nothing\.json"):
        Hub(server.url).download(snapshot, ["nothing.json"], tmp_path, lambda *_: None)
    monkeypatch.setitem(globals(), "listing", lambda: {"sha": "../../x", "siblings": []})
    with pytest.raises(CorruptError, match="commit"):
        Hub(server.url).snapshot("own/er")
    monkeypatch.setitem(globals(), "listing", lambda: [1])
    with pytest.raises(CorruptError, match="as a hub does"):
        Hub(server.url).snapshot("own/er")
    server.shutdown()
    server.server_close()
    monkeypatch.setattr(hf_hub, "_TIMEOUT_S", 0.5)
    with pytest.raises(DeadlineError):
        Hub(server.url).snapshot("own/er")


@pytest.mark.parametrize("endpoint", ["http://example.org", "file:///etc", "huggingface.co"])
def test_an_endpoint_without_encryption_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError):
        Hub.from_env({"HF_ENDPOINT": endpoint})


def test_sources() -> None:
    assert parse_source("own/er") == ("own/er", "main")
    assert parse_source("own/er@v1.0") == ("own/er", "v1.0")
    for text in (
        "nowhere",
        "./own/er",
        "a/b/c",
        "../x",
        "own/..",
        "own/er@",
        "own/er@../x",
        "/a/b",
    ):
        if text != "own/er@":
            with pytest.raises(NotFoundError):
                parse_source(text)
    assert Hub.from_env({}).endpoint == hf_hub.ENDPOINT
