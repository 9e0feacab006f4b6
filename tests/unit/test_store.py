from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mulm.errors import ConfigError, CorruptError, NoSpaceError, NotFoundError
from mulm.home import Home
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store, open_store, step_key


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def manifest_of(*blobs: BlobEntry) -> Manifest:
    return Manifest(kind="dataset", code_version="0", config={"a": 1}, blobs=blobs)


def damage(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_put_twice_writes_once(store: Store) -> None:
    first = store.put("a.bin", b"bytes", rows=2)
    written_ns = store.path(first).stat().st_mtime_ns
    assert store.put("a.bin", b"bytes", rows=2) == first
    assert store.path(first).stat().st_mtime_ns == written_ns
    assert store.read(first) == b"bytes"


@pytest.mark.parametrize("content", [b"bytez", b"byte", b""])
def test_damaged_bytes_are_noticed(store: Store, content: bytes) -> None:
    entry = store.put("a", b"bytes")
    damage(store.path(entry), content)
    for read in (store.read, store.path):
        with pytest.raises(CorruptError):
            read(entry)


def test_a_damaged_blob_can_be_built_again(store: Store) -> None:
    entry = store.put("a", b"bytes")
    damage(store.path(entry), b"bytez")
    assert store.read(store.put("a", b"bytes")) == b"bytes"


def test_manifest_comes_after_its_blobs(store: Store) -> None:
    absent = BlobEntry(name="a", sha256="0" * 64, size_bytes=1)
    with pytest.raises(NotFoundError):
        store.save(manifest_of(absent))
    manifest = manifest_of(store.put("a", b"bytes"))
    assert store.save(manifest) == store.save(manifest) == manifest.id
    assert store.load(manifest.id) == manifest


@pytest.mark.parametrize("manifest_id", ["ds_" + "0" * 24, "../../etc/passwd", "", "ds_1"])
def test_an_unknown_manifest(store: Store, manifest_id: str) -> None:
    with pytest.raises(NotFoundError):
        store.load(manifest_id)


def test_a_damaged_manifest(store: Store) -> None:
    manifest_id = store.save(manifest_of(store.put("a", b"bytes")))
    path = store.root / "manifests" / f"{manifest_id}.json"
    damage(path, path.read_bytes().replace(b'"a":1', b'"a":2'))
    with pytest.raises(CorruptError, match=manifest_id) as caught:
        store.load(manifest_id)
    assert "run the command that made it" in caught.value.hint
    manifest = manifest_of(store.put("a", b"bytes"))
    assert store.save(manifest) == manifest_id
    assert store.load(manifest_id) == manifest


def test_recall_needs_everything(store: Store) -> None:
    key = step_key("clean", source="s", rules=[1])
    assert store.recall(key) is None
    entry = store.put("a", b"bytes")
    manifest = manifest_of(entry)
    store.remember(key, store.save(manifest))
    assert store.recall(key) == manifest
    store.path(entry).unlink()
    assert store.recall(key) is None


@pytest.mark.parametrize("folder", ["blobs", "manifests", "steps"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"manifest":1}'])
def test_what_is_damaged_counts_as_unknown(store: Store, folder: str, content: bytes) -> None:
    key = step_key("clean")
    manifest = manifest_of(store.put("a", b"bytes"))
    store.remember(key, store.save(manifest))
    [path] = (path for path in (store.root / folder).rglob("*") if path.is_file())
    damage(path, content)
    assert store.recall(key) is None
    store.put("a", b"bytes")
    store.remember(key, store.save(manifest))
    assert store.recall(key) == manifest


def test_blobs_are_recalled_as_long_as_all_are_whole(store: Store) -> None:
    entries = (store.put("a", b"bytes", rows=3), store.put("b", b"zipped", content_sha256="1" * 64))
    assert store.recall_blobs("k") is None
    store.remember_blobs("k", entries)
    assert store.recall_blobs("k") == entries
    assert store.recall("k") is None, "it is no version"
    damage(store.path(entries[1]), b"zopped")
    assert store.recall_blobs("k") is None
    store.put("b", b"zipped")
    assert store.recall_blobs("k") == entries
    store.path(entries[0]).unlink()
    assert store.recall_blobs("k") is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"blobs":[{"name":1}]}', b'{"blobs":7}'])
def test_a_damaged_marker_of_blobs_counts_as_unknown(store: Store, content: bytes) -> None:
    store.remember_blobs("k", [store.put("a", b"bytes")])
    damage(store.root / "steps" / "k.json", content)
    assert store.recall_blobs("k") is None


def zipped(store: Store, content: bytes) -> Manifest:
    return manifest_of(store.put("a", content, content_sha256="1" * 64))


def test_another_compressor_gives_the_same_version_which_stays(store: Store) -> None:
    first, other = zipped(store, b"small"), zipped(store, b"smaller")
    assert store.save(first) == store.save(other)
    assert store.load(first.id) == first
    damage(store.path(first.blobs[0]), b"smoll")
    assert store.save(other) == first.id
    assert store.load(first.id) == other, "what is damaged is replaced"


def test_what_is_used_again_is_young_again(store: Store) -> None:
    manifest = manifest_of(store.put("a", b"bytes"))
    store.remember("k", store.save(manifest))
    store.remember_blobs("b", manifest.blobs)

    def old() -> set[str]:
        files = [path for path in store.root.rglob("*") if path.is_file()]
        return {path.name for path in files if path.stat().st_mtime < 1000}

    def grow_old() -> None:
        for path in store.root.rglob("*"):
            os.utime(path, (500, 500))

    grow_old()
    assert len(old()) == 4
    store.recall("k")
    assert old() == {"b.json"}
    grow_old()
    store.recall_blobs("b")
    assert old() == {"k.json", f"{manifest.id}.json"}
    grow_old()
    store.save(manifest_of(store.put("a", b"bytes")))
    assert old() == {"k.json", "b.json"}


def test_all_paths_are_checked(store: Store) -> None:
    entries = [store.put(str(k), bytes([k])) for k in range(9)]
    assert store.paths(entries) == [store.path(entry) for entry in entries]
    damage(store.path(entries[5]), b"x")
    with pytest.raises(CorruptError, match="'5'"):
        store.paths(entries)


def test_pieces_of_a_blob(store: Store) -> None:
    entry = store.put("a", b"0123456789")
    assert store.piece(entry.sha256, 8, 4) == b"89"
    assert store.piece(entry.sha256, 10, 4) == b""
    for other in ("0" * 64, "../../etc/passwd"):
        with pytest.raises(NotFoundError):
            store.piece(other, 0, 1)


def test_an_installation_opens_its_store(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert open_store(home, {}).root == home.store
    assert open_store(home, {"MULM_STORE_URL": ""}).root == home.store
    with pytest.raises(ConfigError, match="'nope://x'"):
        open_store(home, {"MULM_STORE_URL": "nope://x"})


def test_step_keys_depend_on_every_input() -> None:
    assert step_key("a", x=1, y=2) == step_key("a", y=2, x=1)
    assert len({step_key("a", x=1), step_key("b", x=1), step_key("a", x=2)}) == 3


def test_a_full_disk_stores_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpaceError):
        store.put("a", b"bytes")
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_too_little_space_is_refused_early(store: Store) -> None:
    store.require_space(1)
    with pytest.raises(NoSpaceError, match="MB are needed"):
        store.require_space(1 << 60)


def test_a_stream_is_stored_as_its_whole(store: Store) -> None:
    streamed = store.put_stream("big", iter([b"one ", b"", b"two"]))
    assert streamed == store.put("big", b"one two")
    assert store.read(streamed) == b"one two"
    assert list((store.root / "incoming").iterdir()) == []


def test_a_stream_that_breaks_leaves_nothing(store: Store) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise KeyError("gone")

    with pytest.raises(KeyError):
        store.put_stream("big", broken())
    assert list((store.root / "incoming").iterdir()) == []
    assert not (store.root / "blobs").exists()


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    now_s = 1_000_000.0
    store = Store(tmp_path / "store", clock=lambda: now_s)
    incoming = store.root / "incoming"
    incoming.mkdir(parents=True)
    for name, age_s in ((".old.tmp", 90_000), ("old", 90_000), (".young.tmp", 80_000)):
        (incoming / name).write_bytes(b"half")
        os.utime(incoming / name, (now_s - age_s, now_s - age_s))
    store.put_stream("big", iter([b"whole"]))
    assert os.listdir(incoming) == [".young.tmp"]
