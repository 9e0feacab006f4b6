"""The store in object storage, over the real S3 protocol: a server of moto's on loopback.

python -m venv /tmp/moto && /tmp/moto/bin/pip install "moto[s3]" flask flask-cors
MULM_TEST_MOTO=/tmp/moto/bin/moto_server python -m pytest tests/unit/test_origin_s3.py
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mulm.errors import AuthError, ConfigError, MulmError, UnreachableError
from mulm.home import Home
from mulm.manifest import Manifest
from mulm.origin import CHUNK_BYTES, FsOrigin
from mulm.store import Store, open_store
from mulm.upload import Uploaded, push

MOTO = os.environ.get("MULM_TEST_MOTO")
pytestmark = pytest.mark.skipif(
    MOTO is None, reason="no S3 server: name moto's in MULM_TEST_MOTO, see the head of this file"
)


@contextmanager
def server(folder: Path, **env: str) -> Iterator[int]:
    """A server with the bucket `there`; its port."""
    port = free_port()
    assert MOTO is not None
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen(
            [MOTO, "-H", "127.0.0.1", "-p", str(port)],
            stdout=log, stderr=log, env=os.environ | env,
        )  # fmt: skip
    try:
        make_bucket(port)
        yield port
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_bucket(port: int) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/there", method="PUT")
    end_s = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < end_s, "it does not start"
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return Store(tmp_path / "store")


def version(store: Store) -> Manifest:
    """Of a file of two pieces and a small one."""
    blobs = (store.put("big", b"x" * (CHUNK_BYTES + 1)), store.put("small", b"y" * 10))
    manifest = Manifest(kind="dataset", code_version="0", config={}, blobs=blobs)
    store.save(manifest)
    return manifest


def at(port: int, bucket: str = "there") -> str:
    return f"s3://{bucket}/some/folder?scheme=http&endpoint_override=127.0.0.1:{port}"


def test_a_bucket_is_filled_and_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = version(store)
    with server(tmp_path) as port:
        url = at(port)
        assert push(store, url, [manifest.id]) == Uploaded(1, 2, CHUNK_BYTES + 11)
        assert push(store, url, [manifest.id]) == Uploaded(0, 0, 0)
        far = open_store(Home(tmp_path / "far"), {"MULM_STORE_URL": url})
        for entry in far.load(manifest.id).blobs:
            assert far.read(entry) == store.read(entry)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        assert FsOrigin("s3://there/some/folder").has_manifest(manifest.id)


def test_a_file_that_was_cut_short_there_is_sent_again(store: Store, tmp_path: Path) -> None:
    manifest = version(store)
    with server(tmp_path) as port:
        push(store, at(port), [manifest.id])
        short = tmp_path / "short"
        short.write_bytes(b"cut")
        FsOrigin(at(port)).put_blob(manifest.blobs[1].sha256, short)
        assert push(store, at(port), [manifest.id]) == Uploaded(0, 1, 10)


def test_no_bucket(store: Store, tmp_path: Path) -> None:
    with server(tmp_path) as port:
        error = refused(store, at(port, "elsewhere"))
    assert type(error) is ConfigError
    assert "make the bucket first" in error.hint


def test_keys_that_do_not_open_it(store: Store, tmp_path: Path) -> None:
    with server(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="1") as port:
        error = refused(store, at(port))
    assert type(error) is AuthError
    assert "AWS_ACCESS_KEY_ID" in error.hint


def test_nobody_there(store: Store) -> None:
    error = refused(store, at(free_port()))
    assert type(error) is UnreachableError
    assert "check the network" in error.hint


def refused(store: Store, url: str) -> MulmError:
    with pytest.raises(MulmError) as caught:
        push(store, url, [version(store).id])
    return caught.value
