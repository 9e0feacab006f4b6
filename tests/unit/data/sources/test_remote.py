"""Files behind URLs, from servers on loopback and from memory: whole, checked, and fetched once."""

from __future__ import annotations

import hashlib
import importlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from mulm.data.source_spec import SourceSpec
from mulm.data.sources import remote, remote_http, remote_store
from mulm.data.sources.remote import fetch, is_remote
from mulm.errors import (
    AuthError,
    ConfigError,
    CorruptError,
    DeadlineError,
    NotFoundError,
)

CONTENT = b'{"text": "a"}\n' * 3000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c" * 40
FILES = {
    "README.md": b"About",
    "train/part 0.parquet": b"PAR1 first",
    "train/part 1.parquet": b"PAR1 second",
    "test/part 0.parquet": b"PAR1 third",
    "raw/all.jsonl": b'{"text": "a"}',
    "../escape.parquet": b"out",
}


class Site(ThreadingHTTPServer):
    """Serves CONTENT as /data/x.jsonl, and FILES as the dataset `own/er`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.content = CONTENT
        self.cut_after: list[int] = []
        self.status = 200
        self.asked: list[tuple[str, str | None]] = []
        self.commit = COMMIT
        self.token = ""


class Handler(BaseHTTPRequestHandler):
    server: Site

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        site, place = self.server, self.headers["Range"]
        site.asked.append((self.path, place))
        if site.status != 200:
            return self._send(site.status, b"")
        if site.token and self.headers["Authorization"] != f"Bearer {site.token}":
            return self._send(401, b"")
        if self.path.startswith("/api/datasets/own/er/revision/"):
            return self._send(200, listing(site.commit))
        where = f"/datasets/own/er/resolve/{site.commit}/"
        if self.path.startswith(where):
            name = self.path.removeprefix(where).replace("%20", " ")
            return self._send(200, FILES[name])
        if self.path.partition("?")[0] != "/data/x.jsonl":
            return self._send(404, b"")
        begin = int((place or "bytes=0-")[6:-1])
        if begin and begin >= len(site.content):
            return self._send(416, b"")
        return self._send(206 if begin else 200, site.content[begin:])

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cut = self.server.cut_after.pop(0) if self.server.cut_after else None
        self.wfile.write(content[:cut])


def listing(commit: str) -> bytes:
    import json

    siblings = [
        {"rfilename": name, "size": len(content), "blobId": "",
         "lfs": {"sha256": hashlib.sha256(content).hexdigest()}}
        for name, content in FILES.items()
    ]  # fmt: skip
    return json.dumps({"sha": commit, "siblings": siblings}).encode()


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_http, "_FIRST_WAIT_S", 0.0)


def http(site: Site, **changes: Any) -> SourceSpec:
    return SourceSpec(**{"path": f"{site.url}/data/x.jsonl?sig=a b", "sha256": SHA256, **changes})


def env(site: Site) -> dict[str, str]:
    return {"HF_ENDPOINT": site.url, "HF_TOKEN": site.token}


def test_what_is_a_url() -> None:
    assert all(map(is_remote, ("https://x/y", "hf://datasets/a/b", "S3://b/k", "memory://x")))
    assert not any(map(is_remote, ("books/*.txt", "/a/b", "C:/x", "C://x", "a:b", "")))


def test_http_is_fetched_once(site: Site, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    [file] = fetch(http(site), tmp_path, lambda *said: told.append(said), env={})
    assert (file.name, file.path.read_bytes()) == ("x.jsonl", CONTENT)
    assert told[-1] == ("x.jsonl", len(CONTENT), len(CONTENT))
    assert site.asked == [("/data/x.jsonl?sig=a%20b", None)]
    assert fetch(http(site), tmp_path, env={}) == [file]
    assert len(site.asked) == 1
    file.path.write_bytes(b"rotten")
    assert fetch(http(site), tmp_path, env={})[0].path.read_bytes() == CONTENT


def test_http_goes_on_after_an_interruption(site: Site, tmp_path: Path) -> None:
    site.cut_after = [10_000, 5_000]
    [file] = fetch(http(site), tmp_path, env={})
    assert file.path.read_bytes() == CONTENT
    assert [place for _, place in site.asked] == [None, "bytes=10000-", "bytes=15000-"]
    assert [p.name for p in file.path.parent.iterdir()] == ["x.jsonl"]


def test_http_that_never_comes(site: Site, tmp_path: Path) -> None:
    site.cut_after = [10] * 9
    with pytest.raises(DeadlineError, match="broke off after 40 of"):
        fetch(http(site), tmp_path, env={})
    assert [p.name for p in tmp_path.rglob("*.jsonl*")] == ["x.jsonl.part"]
    site.cut_after = []
    assert fetch(http(site), tmp_path, env={})[0].path.read_bytes() == CONTENT


def test_a_file_that_changed(site: Site, tmp_path: Path) -> None:
    site.content = CONTENT.upper()
    with pytest.raises(CorruptError, match=r"127\.0\.0\.1:\d+/data/x\.jsonl is not") as caught:
        fetch(http(site), tmp_path, env={})
    assert hashlib.sha256(site.content).hexdigest() in caught.value.hint
    assert "sig" not in caught.value.message
    assert len(site.asked) == 1
    assert not list(tmp_path.rglob("*.jsonl*"))


@pytest.mark.parametrize("left", [b"wrong beginning", CONTENT.lower() + b"too long"])
def test_a_partial_file_that_is_another(site: Site, tmp_path: Path, left: bytes) -> None:
    [file] = fetch(http(site), tmp_path, env={})
    file.path.unlink()
    file.path.with_name("x.jsonl.part").write_bytes(left)
    assert fetch(http(site), tmp_path, env={})[0].path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFoundError), (410, NotFoundError), (403, AuthError), (500, DeadlineError)],
)
def test_http_refusals_name_the_url(
    site: Site, tmp_path: Path, status: int, kind: type[Exception]
) -> None:
    site.status = status
    with pytest.raises(kind, match=r"http://127\.0\.0\.1:\d+/data/x\.jsonl "):
        fetch(http(site), tmp_path, env={})


def test_http_wants_a_checksum_and_a_name(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without a checksum") as caught:
        fetch(http(site, sha256=None), tmp_path)
    assert "sha256" in caught.value.hint
    with pytest.raises(ConfigError, match="names no file"):
        fetch(http(site, path=f"{site.url}/"), tmp_path)
    assert site.asked == []


def names(site: Site, folder: Path, path: str, **more: Any) -> list[str]:
    return [file.name for file in fetch(SourceSpec(path=path, **more), folder, env=env(site))]


def test_a_dataset_of_a_hub(site: Site, tmp_path: Path) -> None:
    site.token = "secret"
    train = ["train/part 0.parquet", "train/part 1.parquet"]
    assert names(site, tmp_path, "hf://datasets/own/er/train/*.parquet") == train
    assert names(site, tmp_path, "hf://datasets/own/er/train") == train
    assert names(site, tmp_path, "hf://datasets/own/er") == ["test/part 0.parquet", *train]
    assert names(site, tmp_path, "hf://datasets/own/er/**/part 0.parquet") == [
        "test/part 0.parquet", train[0],
    ]  # fmt: skip
    assert names(site, tmp_path, "hf://datasets/own/er/raw/all.jsonl") == ["raw/all.jsonl"]
    files = fetch(SourceSpec(path="hf://datasets/own/er/train"), tmp_path, env=env(site))
    assert [f.path.read_bytes() for f in files] == [FILES[name] for name in train]
    n_fetched = sum("resolve" in path for path, _ in site.asked)
    assert n_fetched == 4
    site.commit = "d" * 40  # a new commit with the same contents brings nothing
    assert names(site, tmp_path, "hf://datasets/own/er/train") == train
    assert sum("resolve" in path for path, _ in site.asked) == n_fetched


def test_a_commit_is_asked_for_once(site: Site, tmp_path: Path) -> None:
    path = f"hf://datasets/own/er@{COMMIT}/train"
    found = names(site, tmp_path, path)
    site.status = 500
    assert names(site, tmp_path, path) == found
    with pytest.raises(DeadlineError) as caught:
        names(site, tmp_path, "hf://datasets/own/er/train")
    assert "40 hex digits" in caught.value.hint


@pytest.mark.parametrize("revision", ["~parquet", "refs/convert/parquet"])
def test_the_branch_with_parquet_of_everything(site: Site, tmp_path: Path, revision: str) -> None:
    names(site, tmp_path, f"hf://datasets/own/er@{revision}/test/*")
    assert "/revision/refs%2Fconvert%2Fparquet?" in site.asked[0][0]


def test_a_dataset_without_parquet(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        globals(), "FILES", {"README.md": b"About", "a.csv": b"text", "x.png": b"p"}
    )
    assert names(site, tmp_path, "hf://datasets/own/er") == ["a.csv"]
    assert names(site, tmp_path, "hf://datasets/own/er/README.md") == ["README.md"]


def test_mistakes_with_a_hub(site: Site, tmp_path: Path) -> None:
    for path in ("hf://own/er", "hf://datasets/own", "hf://datasets/own/er@../x/y"):
        with pytest.raises(ConfigError, match="no dataset of a hub"):
            names(site, tmp_path, path)
    with pytest.raises(NotFoundError, match="no such files") as caught:
        names(site, tmp_path, "hf://datasets/own/er/trian/*.parquet")
    with pytest.raises(NotFoundError) as caught:
        names(site, tmp_path, "hf://datasets/own/er/*.parquet")
    assert "train/part 0.parquet" in caught.value.hint
    with pytest.raises(NotFoundError):
        names(site, tmp_path, "hf://datasets/own/other")
    site.token = "secret"
    with pytest.raises(AuthError, match="refuses"):
        fetch(SourceSpec(path="hf://datasets/own/er"), tmp_path, env={"HF_ENDPOINT": site.url})


@pytest.fixture
def memory() -> Iterator[Any]:
    system = importlib.import_module("fsspec").filesystem("memory")
    for name, content in {"d/b.txt": b"b", "d/a.txt": b"a", "d/deep/c.txt.gz": b"c"}.items():
        system.pipe(f"/src/{name}", content)
    system.pipe("/src/d/photo.jpg", b"j")
    system.pipe("/src/d/_metadata.txt", b"m")
    yield system
    system.rm("/src", recursive=True)


def test_what_fsspec_opens(memory: Any, tmp_path: Path) -> None:
    def found(path: str, **more: Any) -> dict[str, bytes]:
        files = fetch(SourceSpec(path=path, **more), tmp_path)
        return {file.name: file.path.read_bytes() for file in files}

    everything = {"a.txt": b"a", "b.txt": b"b", "deep/c.txt.gz": b"c"}
    assert found("memory://src/d") == everything
    assert found("memory://src/d/", type="text") == everything
    assert found("memory://src/d/*.txt", type="text") == {
        "_metadata.txt": b"m", "a.txt": b"a", "b.txt": b"b",
    }  # fmt: skip
    assert found("memory://src/d/[ab].txt") == {"a.txt": b"a", "b.txt": b"b"}
    assert found("memory://src/**/*.gz") == {"d/deep/c.txt.gz": b"c"}
    assert found("memory://src/d/a.txt", sha256=hashlib.sha256(b"a").hexdigest()) == {"a.txt": b"a"}
    memory.pipe("/src/d/a.txt", b"new")
    assert found("memory://src/d/a.txt") == {"a.txt": b"new"}


def test_what_is_here_is_not_copied_again(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fetch(SourceSpec(path="memory://src/d"), tmp_path)
    monkeypatch.setattr(remote_store, "_copy", None)
    assert fetch(SourceSpec(path="memory://src/d"), tmp_path) == files


def test_mistakes_with_stores(memory: Any, tmp_path: Path) -> None:
    def failing(path: str, **more: Any) -> Any:
        return fetch(SourceSpec(path=path, **more), tmp_path)

    with pytest.raises(NotFoundError, match="memory://src/none"):
        failing("memory://src/none")
    with pytest.raises(NotFoundError, match="no such files"):
        failing("memory://src/d/*.xyz")
    with pytest.raises(CorruptError, match="checksum"):
        failing("memory://src/d/a.txt", sha256="0" * 64)
    with pytest.raises(ConfigError, match="one checksum"):
        failing("memory://src/d", sha256="0" * 64)
    with pytest.raises(ConfigError, match="nothing here opens 'nothing://"):
        failing("nothing://x/y")


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (FileNotFoundError("x"), NotFoundError), (PermissionError("x"), AuthError),
        (OSError("AWS Error ACCESS_DENIED during HeadObject"), AuthError),
        (OSError("timed out"), DeadlineError), (ImportError("no s3fs"), ConfigError),
    ],
)  # fmt: skip
def test_failures_of_stores_name_the_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[Exception]
) -> None:
    def fail(_: str) -> None:
        raise raised

    monkeypatch.setattr(remote_store, "_opened", fail)
    with pytest.raises(kind, match="s3://bucket/key"):
        fetch(SourceSpec(path="s3://me:secret@bucket/key?region=x"), tmp_path)


def test_a_store_that_changes_while_it_is_read(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = remote_store._stored

    def grown(system: Any, info: Any, name: str) -> Any:
        found = real(system, info, name)
        return type(found)(found.name, found.path, found.size_bytes + 1, found.version)

    monkeypatch.setattr(remote_store, "_stored", grown)
    with pytest.raises(CorruptError, match="changed while it was read"):
        fetch(SourceSpec(path="memory://src/d/a.txt"), tmp_path)
    assert not list(tmp_path.rglob("*.txt"))


def test_file_urls_are_read_in_place(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("a")
    url = f"file://{tmp_path}".replace(" ", "%20")
    [file] = fetch(SourceSpec(path=url), tmp_path / "cache")
    assert (file.name, file.path) == ("a b.txt", tmp_path / "a b.txt")
    with pytest.raises(ConfigError, match="names a host"):
        fetch(SourceSpec(path="file://server/share"), tmp_path)


def test_arrow_opens_object_stores() -> None:
    system, root, pattern = remote_store._opened(
        "s3://key:word@bucket/a/*.parquet?region=eu-west-1&endpoint_override=127.0.0.1:9"
    )
    assert isinstance(system, pafs.S3FileSystem)
    assert (root.rstrip("/"), pattern) == ("bucket/a", "*.parquet")
    assert remote.is_remote("s3://bucket/a/*.parquet")
