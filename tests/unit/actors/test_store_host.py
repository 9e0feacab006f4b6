from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from actors import store_host
from actors.store_host import ClusterOrigin, StoreHost, cluster_store
from mulm.errors import CorruptError, NotFoundError, NotRunningError
from mulm.home import Home
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def origin(store: Store, monkeypatch: pytest.MonkeyPatch) -> ClusterOrigin:
    """The client on the plain class: a call is made when its answer is asked for."""

    def answer(reference: Any, who: str, method: str, timeout_s: float) -> Any:
        return reference()

    monkeypatch.setattr(store_host, "answer", answer)
    monkeypatch.setattr(store_host, "CHUNK_BYTES", 10)
    host = StoreHost(str(store.root.parent))
    methods = ("piece", "manifest")
    handle = {m: SimpleNamespace(remote=partial(partial, getattr(host, m))) for m in methods}
    return ClusterOrigin(SimpleNamespace(**handle))


@pytest.mark.parametrize("n_bytes", [0, 1, 9, 10, 11, 20, 35])
def test_a_blob_travels_in_bounded_pieces(
    store: Store, origin: ClusterOrigin, tmp_path: Path, n_bytes: int
) -> None:
    entry = store.put("a", bytes(range(n_bytes)))
    pieces = list(origin.fetch(entry.sha256))
    assert b"".join(pieces) == bytes(range(n_bytes))
    assert all(len(piece) <= 10 for piece in pieces)
    assert Store(tmp_path / "far", origin).read(entry) == bytes(range(n_bytes))


def test_a_version_travels(store: Store, origin: ClusterOrigin, tmp_path: Path) -> None:
    blobs = (store.put("a", b"bytes"),)
    manifest = Manifest(kind="dataset", code_version="0", config={}, blobs=blobs)
    store.save(manifest)
    far = Store(tmp_path / "far", origin)
    assert far.load(manifest.id) == manifest
    with pytest.raises(NotFoundError):
        far.load("ds_" + "0" * 24)
    with pytest.raises(NotFoundError):
        far.path(BlobEntry(name="x", sha256="0" * 64, size_bytes=1))


def test_what_is_damaged_at_the_head_is_refused(
    store: Store, origin: ClusterOrigin, tmp_path: Path
) -> None:
    entry = store.put("a", b"bytes")
    path = store.path(entry)
    path.chmod(0o644)
    path.write_bytes(b"bytez")
    with pytest.raises(CorruptError):
        Store(tmp_path / "far", origin).path(entry)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "0" * 63, "0" * 64 + "/x"])
def test_only_blobs_can_be_asked_for(store: Store, name: str) -> None:
    host = StoreHost(str(store.root.parent))
    with pytest.raises(NotFoundError):
        host.piece(name, 0)
    with pytest.raises(NotFoundError):
        host.manifest(name)


def test_without_a_cluster_none_is_started(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULM_STORE_URL", raising=False)
    with pytest.raises(NotRunningError, match="connected to no cluster"):
        cluster_store(home)
    assert not store_host.ray.is_initialized()
