"""Downloads from a hub on loopback: only what was promised is taken, and the token stays home."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mulm.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    CorruptError,
    DeadlineError,
    NotFoundError,
    UnreachableError,
)
from mulm.model import hf_hub
from mulm.model.hf_hub import Hub, parse_source
from mulm.run_lock import path_lock

COMMIT = "c" * 40
FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 40}


class FakeHub(ThreadingHTTPServer):
    """Serves FILES as one repository, `own/er-less`; the fields below make it misbehave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.can_end = threading.Event()
        self.token = ""
        self.cut_after: list[int] = []
        """Bytes after which the next answers break off."""
        self.sent = dict(FILES)
        self.status = 200
        self.redirect_to = ""
        self.listing: bytes | None = None
        self.dies_in_listing = ""
        """How its list of files breaks off: "reset", "silence" or "incomplete"."""
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
            if hub.dies_in_listing:
                return self._break_off(hub.dies_in_listing)
            return self._send(200, hub.listing or json.dumps(listing()).encode())
        path = self.path.removeprefix("/moved")
        prefix, _, name = path.rpartition("/")
        if prefix != f"/own/er/resolve/{COMMIT}" or name not in hub.sent:
            return self._send(404, b"")
        if hub.redirect_to and path == self.path and name.endswith(".safetensors"):
            self.send_response(302)
            self.send_header("Location", hub.redirect_to + self.path)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        content = hub.sent[name]
        begin = int((self.headers["Range"] or "bytes=0-")[6:-1])
        return self._send(206 if begin else 200, content[begin:])

    def _break_off(self, how: str) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"ff\r\n[1, 2")
        if how == "silence":
            self.server.can_end.wait(10)
        if how == "reset":
            linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

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


def patient(url: str, waits: list[float] | None = None) -> Hub:
    """A client that notes its waits and does not wait."""
    return Hub(url, sleep=(waits if waits is not None else []).append)


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
    fetch(patient(server.url), tmp_path)
    assert contents(tmp_path) == FILES
    ranges = [begin for path, _, begin in server.seen if path.endswith("model.safetensors")]
    assert ranges == [None, "bytes=4000-", "bytes=4001-"]


def test_it_gives_up_after_some_tries_and_keeps_what_came(server: FakeHub, tmp_path: Path) -> None:
    server.cut_after = [10_000, 100, 100, 100, 100]
    waits: list[float] = []
    with pytest.raises(DeadlineError) as error:
        fetch(patient(server.url, waits), tmp_path)
    assert waits == [1.0, 2.0, 4.0]
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
        fetch(patient(server.url), tmp_path)
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


@pytest.mark.parametrize("is_relative", [True, False])
def test_the_token_is_sent_where_the_hub_redirects_within_itself(
    server: FakeHub, tmp_path: Path, is_relative: bool
) -> None:
    server.token = "secret"
    server.redirect_to = "/moved" if is_relative else f"{server.url}/moved"
    fetch(Hub(server.url, "secret"), tmp_path)
    assert contents(tmp_path) == FILES
    assert {auth for _, auth, _ in server.seen} == {"Bearer secret"}
    assert any(path.startswith("/moved/own/er/resolve") for path, *_ in server.seen)


def test_the_token_is_not_sent_to_the_same_machine_by_another_name(
    server: FakeHub, tmp_path: Path
) -> None:
    server.redirect_to = f"http://localhost:{server.server_port}/moved"
    fetch(Hub(server.url, "secret"), tmp_path)
    auths = {auth for path, auth, _ in server.seen if path.startswith("/moved")}
    assert auths == {None}


def test_the_token_is_never_shown() -> None:
    assert "secret" not in repr(Hub(token="secret"))
    with pytest.raises(ConfigError, match="HF_TOKEN") as error:
        Hub.from_env({"HF_TOKEN": "sec\nret"})
    assert "ret" not in error.value.message


def test_proxies_are_those_of_the_given_environment(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    env = {"HTTP_PROXY": server.url, "HF_ENDPOINT": server.url}
    assert Hub.from_env({"HF_ENDPOINT": server.url}).snapshot("own/er").commit == COMMIT
    assert Hub.from_env(env).proxies == {"http": server.url}
    with pytest.raises(NotFoundError):
        Hub("http://hub.invalid", proxies={"http": server.url}).snapshot("own/er")
    assert server.seen[-1][0].startswith("http://hub.invalid/api/models/own/er")
    without = Hub.from_env(env | {"no_proxy": "hub.invalid"}).proxies
    n_seen = len(server.seen)
    with pytest.raises(UnreachableError):
        Hub("http://hub.invalid", proxies=without).snapshot("own/er")
    assert len(server.seen) == n_seen


def test_one_process_at_a_time_fills_a_folder(server: FakeHub, tmp_path: Path) -> None:
    with (
        path_lock(tmp_path / "model.lock", "it"),
        pytest.raises(ConflictError, match="model"),
    ):
        fetch(Hub(server.url), tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []
    fetch(Hub(server.url), tmp_path / "model")
    assert contents(tmp_path / "model") == FILES


def test_a_part_that_is_deleted_meanwhile_is_fetched_again(server: FakeHub, tmp_path: Path) -> None:
    deleted: list[Path] = []

    def delete_once(name: str, *_: int) -> None:
        if not deleted:
            deleted.append(tmp_path / f"{name}.part")
            deleted[0].unlink()

    hub = patient(server.url)
    hub.download(hub.snapshot("own/er"), list(FILES), tmp_path, delete_once)
    assert contents(tmp_path) == FILES


@pytest.mark.parametrize("how", ["reset", "silence", "incomplete"])
def test_a_listing_that_breaks_off(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(hf_hub, "_TIMEOUT_S", 0.3)
    server.dies_in_listing = how
    with pytest.raises(DeadlineError, match="did not answer"):
        Hub(server.url).snapshot("own/er")
    server.can_end.set()


@pytest.mark.parametrize(
    "content",
    [
        b'{"sha": "c", "siblings": [{"rfilename": "a", "size": 1, "lfs": "x"}]}',
        b'{"sha": "c", "siblings": [{"rfilename": "a", "size": Infinity}]}',
        b'{"sha": "c", "siblings": [{"rfilename": "a", "size": [1]}]}',
        b'{"sha": "c", "siblings": {"a": 1}}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_listing_that_makes_no_sense(server: FakeHub, content: bytes) -> None:
    server.listing = content
    with pytest.raises(CorruptError, match="as a hub does"):
        Hub(server.url).snapshot("own/er")


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/x", "http://127.0.0.1:bad/x", "http://[1/x"])
def test_a_redirect_to_nowhere(server: FakeHub, tmp_path: Path, where: str) -> None:
    server.redirect_to = where
    with pytest.raises(DeadlineError, match="did not answer"):
        fetch(Hub(server.url, "secret", sleep=lambda _: None), tmp_path)


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


def test_a_hub_that_is_not_there_cannot_be_reached(server: FakeHub, tmp_path: Path) -> None:
    snapshot = Hub(server.url).snapshot("own/er")
    server.shutdown()
    server.server_close()
    with pytest.raises(UnreachableError, match="refused") as error:
        Hub(server.url).snapshot("own/er")
    assert error.value.code == "unreachable"
    assert "HF_ENDPOINT" in error.value.hint
    waits: list[float] = []
    with pytest.raises(UnreachableError):
        Hub(server.url, sleep=waits.append).download(snapshot, list(FILES), tmp_path, print)
    assert len(waits) == 3, "it may come back while files are fetched"


@pytest.mark.parametrize("endpoint", ["http://example.org", "file:///etc", "huggingface.co"])
def test_an_endpoint_without_encryption_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError):
        Hub.from_env({"HF_ENDPOINT": endpoint})


def test_sources() -> None:
    assert parse_source("own/er") == ("own/er", "main")
    assert parse_source("own/er@v1.0") == ("own/er", "v1.0")
    for text in (
        "nowhere", "./own/er", "a/b/c", "../x", "own/..", "own/er@", "own/er@../x", "/a/b",
        "own/ér", "öwn/er", "own/er@vé",
    ):  # fmt: skip
        with pytest.raises(NotFoundError):
            parse_source(text)
    assert Hub.from_env({}).endpoint == hf_hub.ENDPOINT
