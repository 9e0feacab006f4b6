from __future__ import annotations

from typing import Any

from mulm.data.steps import Steps, recall
from mulm.manifest import Manifest
from mulm.store import Store, step_key


def test_a_step_runs_once(store: Store) -> None:
    made: list[Manifest] = []
    events: list[tuple[str, dict[str, Any]]] = []
    steps = Steps(store, lambda kind, **data: events.append((kind, data)), "v1")

    def make() -> Manifest:
        blobs = (store.put("a", b"content"),)
        made.append(Manifest(kind="documents", code_version="v1", config={}, blobs=blobs))
        return made[-1]

    for _ in range(2):
        assert steps.run("read", {"x": 1}, make, lambda m: "one file") == made[0]
    assert len(made) == 1
    assert [data["text"] for _, data in events] == ["one file", "one file, known already"]
    steps.run("read", {"x": 2}, make, lambda m: "")
    Steps(store, lambda kind, **data: None, "v2").run("read", {"x": 1}, make, lambda m: "")
    assert len(made) == 3


def test_missing_blob_is_not_recalled(store: Store) -> None:
    entry = store.put("a", b"content")
    manifest = Manifest(kind="documents", code_version="v", config={}, blobs=(entry,))
    store.save(manifest)
    key = step_key("s")
    store.remember(key, manifest.id)
    assert recall(store, key) == manifest
    store.discard(entry)
    assert recall(store, key) is None
