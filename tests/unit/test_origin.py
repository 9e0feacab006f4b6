from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mulm import origin
from mulm.data.loader import TokenLoader
from mulm.errors import (
    AuthError,
    ConfigError,
    CorruptError,
    MulmError,
    NotFoundError,
    UnreachableError,
)
from mulm.home import Home
from mulm.manifest import Manifest
from mulm.origin import CHUNK_BYTES, FsOrigin
from mulm.store import Store, open_store
from mulm.upload import Uploaded, push


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A local folder, and one that only fsspec opens."""
    return f"{request.param}://{tmp_path}/origin"


def dataset(store: Store, n_tokens: int = 500) -> Manifest:
    documents = Manifest(
        kind="documents", code_version="0", config={}, blobs=(store.put("d", b"text"),),
        parents={"run": "run_1"},
    )  # fmt: skip
    store.save(documents)
    tokens = array("H", [t % 60_000 for t in range(n_tokens)]).tobytes()
    manifest = Manifest(
        kind="dataset", code_version="0", config={}, parents={"documents": documents.id},
        blobs=(
            store.put("train-00000.bin", tokens, rows=n_tokens),
            store.put("train-00001.bin", tokens[:400], rows=200),
        ),
    )  # fmt: skip
    store.save(manifest)
    return manifest


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_two_machines_read_the_same_batches(store: Store, url: str, tmp_path: Path) -> None:
    manifest = dataset(store, CHUNK_BYTES)  # two pieces
    push(store, url, [manifest.id])
    far = Store(tmp_path / "far", FsOrigin(url))
    here, there = (TokenLoader(s, s.load(manifest.id), seq_len=16, seed=1) for s in (store, far))
    for step in range(5):
        for ours, theirs in zip(here.batch(step, 8), there.batch(step, 8), strict=True):
            assert torch.equal(ours, theirs)
    assert store.load(manifest.parents["documents"]) == far.load(manifest.parents["documents"])
    alone = Store(far.root)
    assert alone.paths(manifest.blobs), "it is a cache: the origin is not asked twice"


def test_an_upload_skips_what_is_there(store: Store, url: str) -> None:
    manifest = dataset(store)
    told: list[tuple[int, int]] = []
    assert push(store, url, [manifest.id], lambda *done: told.append(done)) == Uploaded(2, 3, 1404)
    assert told == [(4, 1404), (1004, 1404), (1404, 1404)]
    assert push(store, url, [manifest.id]) == Uploaded(0, 0, 0)
    more = manifest.model_copy(update={"code_version": "1"})
    assert push(store, url, [store.save(more)]) == Uploaded(1, 0, 0)


def test_an_upload_that_is_killed_names_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, honest, n_put = dataset(store), FsOrigin.put_blob, 0

    def killed(self: FsOrigin, sha256: str, source: Path) -> None:
        nonlocal n_put
        n_put += 1
        if n_put == 3:
            raise KeyboardInterrupt
        honest(self, sha256, source)

    monkeypatch.setattr(FsOrigin, "put_blob", killed)
    url = f"file://{tmp_path}/origin"
    with pytest.raises(KeyboardInterrupt):
        push(store, url, [manifest.id])
    assert not FsOrigin(url).has_manifest(manifest.id)
    assert push(store, url, [manifest.id]) == Uploaded(1, 1, 400)
    assert not [path for path in files(tmp_path / "origin") if path.suffix == ".tmp"]


def test_an_upload_mends_what_is_missing_or_cut_short(store: Store, tmp_path: Path) -> None:
    manifest, url = dataset(store), f"file://{tmp_path}/origin"
    push(store, url, [manifest.id])
    first, second = (
        tmp_path / "origin" / "blobs" / b.sha256[:2] / b.sha256 for b in manifest.blobs
    )
    first.write_bytes(b"cut")
    second.unlink()
    (tmp_path / "origin" / "manifests" / f"{manifest.id}.json").write_bytes(b"")
    assert push(store, url, [manifest.id]) == Uploaded(1, 2, 1400)
    assert Store(tmp_path / "far", FsOrigin(url)).paths(manifest.blobs)


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_an_upload_that_breaks_leaves_no_piece(tmp_path: Path, error: BaseException) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x"
        raise error

    with pytest.raises((ConfigError, KeyboardInterrupt)):
        FsOrigin(f"file://{tmp_path}/origin")._write("blobs/a", pieces())
    assert [path for path in (tmp_path / "origin").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("error", [AuthError("refused"), ConfigError("no bucket")])
def test_reading_where_one_is_refused_finds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: MulmError
) -> None:
    def refuse(_url: str) -> tuple[object, str]:
        raise error

    monkeypatch.setattr(origin, "_open", refuse)
    with pytest.raises(NotFoundError, match=error.message):
        FsOrigin("s3://b/x").manifest("ds_1")


def test_a_damaged_file_is_not_uploaded(store: Store, url: str) -> None:
    manifest = dataset(store)
    path = store.path(manifest.blobs[0])
    path.chmod(0o644)
    path.write_bytes(b"x" * 1000)
    with pytest.raises(CorruptError):
        push(store, url, [manifest.id])
    assert not FsOrigin(url).has_manifest(manifest.id)


@pytest.mark.parametrize("content", [b"", b"x" * 1000, b"x" * 5000])
def test_damaged_bytes_of_the_origin_are_refused(
    store: Store, tmp_path: Path, content: bytes
) -> None:
    manifest = dataset(store)
    push(store, f"file://{tmp_path}/origin", [manifest.id])
    entry = manifest.blobs[0]
    far = Store(tmp_path / "far", FsOrigin(f"file://{tmp_path}/origin"))
    held = tmp_path / "origin" / "blobs" / entry.sha256[:2] / entry.sha256
    whole = held.read_bytes()
    held.write_bytes(content)
    for read in (far.path, far.read):
        with pytest.raises(CorruptError, match="train-00000"):
            read(entry)
        assert files(far.root) == []
    held.write_bytes(whole)
    assert far.read(entry) == whole


def test_a_damaged_manifest_of_the_origin_is_refused(store: Store, tmp_path: Path) -> None:
    manifest = dataset(store)
    push(store, f"file://{tmp_path}/origin", [manifest.id])
    (tmp_path / "origin" / "manifests" / f"{manifest.id}.json").write_bytes(b"{}")
    far = Store(tmp_path / "far", FsOrigin(f"file://{tmp_path}/origin"))
    with pytest.raises(CorruptError, match=manifest.id):
        far.load(manifest.id)
    assert files(far.root) == []


def test_what_is_damaged_here_is_mended(store: Store, tmp_path: Path) -> None:
    manifest = dataset(store)
    push(store, f"file://{tmp_path}/origin", [manifest.id])
    far = Store(tmp_path / "far", FsOrigin(f"file://{tmp_path}/origin"))
    far.load(manifest.id)
    far.paths(manifest.blobs)
    for path in files(far.root):
        path.chmod(0o644)
        path.write_bytes(b"x" * path.stat().st_size)
    assert far.load(manifest.id) == manifest
    assert [path.read_bytes() for path in far.paths(manifest.blobs)] == [
        store.read(entry) for entry in manifest.blobs
    ]


class Broken:
    """An origin whose connection ends in the middle."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def fetch(self, sha256: str) -> Iterator[bytes]:
        yield self._store.piece(sha256, 0, 100)
        raise KeyboardInterrupt

    def manifest(self, manifest_id: str) -> bytes:
        raise KeyboardInterrupt


def test_a_fetch_that_is_killed_leaves_nothing(store: Store, tmp_path: Path) -> None:
    manifest = dataset(store)
    far = Store(tmp_path / "far", Broken(store))
    with pytest.raises(KeyboardInterrupt):
        far.path(manifest.blobs[0])
    with pytest.raises(KeyboardInterrupt):
        far.load(manifest.id)
    assert files(far.root) == []


class Endless:
    """An origin that never stops sending."""

    def fetch(self, sha256: str) -> Iterator[bytes]:
        for _ in range(1000):
            yield b"x" * 100
        raise AssertionError("it is still read")

    def manifest(self, manifest_id: str) -> bytes:
        return b"x"


def test_no_more_is_read_than_was_promised(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CorruptError):
        Store(tmp_path / "far", Endless()).path(dataset(store).blobs[0])


def test_what_an_origin_lacks(store: Store, url: str, tmp_path: Path) -> None:
    manifest = dataset(store)
    far = Store(tmp_path / "far", FsOrigin(url))
    with pytest.raises(NotFoundError, match="is not in the store at"):
        far.load(manifest.id)
    with pytest.raises(NotFoundError, match="is not in the store at"):
        far.path(manifest.blobs[0])


def test_a_broken_connection_is_tried_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = dataset(store)
    push(store, f"file://{tmp_path}/origin", [manifest.id])
    origin, pauses_s = FsOrigin(f"file://{tmp_path}/origin"), []
    monkeypatch.setattr("time.sleep", pauses_s.append)

    class Flaky:
        n_failures = 2

        def open_input_stream(self, path: str) -> object:
            if self.n_failures:
                self.n_failures -= 1
                raise ConnectionResetError("reset")
            return honest.open_input_stream(path)

    honest, root = origin._place
    origin.__dict__["_place"] = (Flaky(), root)
    assert origin.manifest(manifest.id) == manifest.to_bytes()
    assert len(pauses_s) == 2
    Flaky.n_failures = 9
    origin.__dict__["_place"] = (Flaky(), root)
    with pytest.raises(NotFoundError, match="cannot be read: reset"):
        origin.manifest(manifest.id)


@pytest.mark.parametrize("url", ["nope://x", "", "relative/folder", "file://relative/folder"])
def test_urls_that_cannot_be_opened(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FsOrigin(url)
    assert "s3://" in caught.value.hint


def test_object_storage_that_is_away_does_not_keep_what_lies_here(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = dataset(store)
    home = Home(tmp_path)

    def away(url: str) -> None:
        raise UnreachableError("no route")

    monkeypatch.setattr("mulm.origin._open", away)
    monkeypatch.setattr("time.sleep", lambda _: None)
    here = open_store(home, {"MULM_STORE_URL": "s3://bucket/folder"})
    assert here.paths(here.load(manifest.id).blobs)
    with pytest.raises(NotFoundError, match="cannot be read: no route"):
        here.load("ds_" + "0" * 24)
    with pytest.raises(UnreachableError):
        push(store, "s3://bucket/folder", [manifest.id])


def test_keys_in_an_address_are_shown_to_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError) as caught:
        FsOrigin("nope://KEY:SECRET@host/folder")
    assert "SECRET" not in caught.value.message
    assert FsOrigin("s3://KEY:SECRET@bucket/folder").url == "s3://bucket/folder"


def test_what_the_other_side_does_not_keep_whole_has_no_version(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, url = dataset(store), f"file://{tmp_path}/origin"
    monkeypatch.setattr(FsOrigin, "put_blob", lambda self, sha256, source: None)
    with pytest.raises(CorruptError, match="did not keep"):
        push(store, url, [manifest.id])
    assert not FsOrigin(url).has_manifest(manifest.parents["documents"])


def test_an_origin_that_cannot_be_written(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be written"):
        push(store, f"file://{tmp_path}/file/origin", [dataset(store).id])


def test_an_installation_with_an_origin(store: Store, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/origin"
    manifest = dataset(store)
    push(store, url, [manifest.id])
    far = open_store(Home(tmp_path / "home"), {"MULM_STORE_URL": url})
    assert far.read(far.load(manifest.id).blobs[1]) == store.read(manifest.blobs[1])
