from __future__ import annotations

from pathlib import Path

import pytest

from mulm.damage import Damage, verify
from mulm.manifest import Manifest
from mulm.origin import FsOrigin
from mulm.store import Store
from mulm.upload import push


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def save(store: Store, **files: bytes) -> str:
    blobs = tuple(store.put(name, content) for name, content in files.items())
    return store.save(Manifest(kind="dataset", code_version="0", config={}, blobs=blobs))


def damage(store: Store, manifest_id: str, name: str) -> None:
    path = store.path(store.load(manifest_id).blob(name))
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)


def test_every_damage_is_named_by_file_and_version(store: Store) -> None:
    one, other = save(store, a=b"shared", b=b"alone"), save(store, c=b"shared")
    told: list[tuple[int, int]] = []
    assert verify(store, [one, other, one], lambda *done: told.append(done)) == []
    assert told == [(1, 2), (2, 2)], "a shared file is read once"
    damage(store, one, "a")
    store.path(store.load(one).blob("b")).unlink()
    found = verify(store, [one, other])
    assert {(d.manifest_id, d.file) for d in found} == {(one, "a"), (one, "b"), (other, "c")}
    assert "checksum" in found[0].reason


def test_a_damaged_manifest_does_not_hide_the_rest(store: Store) -> None:
    one, other = save(store, a=b"1"), save(store, a=b"2")
    damage(store, other, "a")
    path = store.root / "manifests" / f"{one}.json"
    path.chmod(0o644)
    path.write_bytes(b"{}")
    gone = "ds_" + "0" * 24
    assert [(d.manifest_id, d.file) for d in verify(store, [one, gone, other])] == [
        (one, "manifest"), (gone, "manifest"), (other, "a"),
    ]  # fmt: skip
    assert isinstance(verify(store, [gone])[0], Damage)


def test_an_origin_mends(store: Store, tmp_path: Path) -> None:
    one = save(store, a=b"1")
    push(store, f"file://{tmp_path}/origin", [one])
    damage(store, one, "a")
    assert verify(Store(store.root, FsOrigin(f"file://{tmp_path}/origin")), [one]) == []
    assert verify(store, [one]) == []
