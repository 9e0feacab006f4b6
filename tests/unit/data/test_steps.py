from __future__ import annotations

from typing import Any

from mulm.data.steps import Steps, silent
from mulm.manifest import Manifest
from mulm.store import Store


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


def test_a_damaged_result_is_made_again(store: Store) -> None:
    def make() -> Manifest:
        blobs = (store.put("a", b"content"),)
        return Manifest(kind="documents", code_version="v", config={}, blobs=blobs)

    steps = Steps(store, silent, "v")
    [entry] = steps.run("read", {}, make, lambda m: "").blobs
    path = store.path(entry)
    path.chmod(0o644)
    path.write_bytes(b"contend")
    assert store.read(steps.run("read", {}, make, lambda m: "").blobs[0]) == b"content"
