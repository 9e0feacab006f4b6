from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.errors import CorruptError
from mulm.gc import GRACE_S, collect, plan_gc
from mulm.ledger import Ledger
from mulm.manifest import Kind, Manifest
from mulm.store import Store

NOW_S = 10_000_000.0
OLD_S = NOW_S - 2 * GRACE_S


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", clock=lambda: NOW_S)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite", clock=lambda: OLD_S) as ledger:
        yield ledger


def save(store: Store, text: str, kind: Kind = "dataset", **parents: str) -> Manifest:
    blobs = tuple(store.put(word, word.encode()) for word in text.split())
    manifest = Manifest(kind=kind, code_version="0", config={}, parents=parents, blobs=blobs)
    store.save(manifest)
    return manifest


def grow_old(store: Store, time_s: float = OLD_S) -> None:
    for path in store.root.rglob("*"):
        if path.is_file():
            os.utime(path, (time_s, time_s))


def collected(store: Store, ledger: Ledger, **options: Any) -> int:
    return collect(plan_gc(store, ledger, NOW_S, **options))


def is_whole(store: Store, manifest: Manifest) -> bool:
    return store.load(manifest.id) == manifest and bool(store.paths(manifest.blobs) or True)


def files(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.rglob("*") if path.is_file())


def test_what_nothing_needs_goes(store: Store, ledger: Ledger) -> None:
    named, lost = save(store, "both kept"), save(store, "both lost")
    ledger.publish("dataset", "books", named.id)
    store.remember("kept", named.id)
    store.remember("lost", lost.id)
    store.remember_blobs("part-kept", named.blobs)
    store.remember_blobs("part-lost", lost.blobs)
    store.put("alone", b"alone")
    for name in ("incoming/1", "incoming/.1.tmp", "steps/.k.tmp", "blobs/aa/.b.tmp"):
        path = store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left")
    grow_old(store)
    plan = plan_gc(store, ledger, NOW_S)
    before = files(store)
    assert [f.name for f in plan.manifests] == [lost.id]
    assert sorted(f.name for f in plan.markers) == ["lost", "part-lost"]
    assert {f.path.read_bytes() for f in plan.blobs} == {b"lost", b"alone"}
    assert len(plan.leftovers) == 4
    assert files(store) == before, "a plan changes nothing"
    assert collect(plan) == plan.size_bytes
    assert collect(plan) == 0
    assert files(store) == sorted(
        ["kept.json", "part-kept.json", f"{named.id}.json", *(b.sha256 for b in named.blobs)]
    )
    assert is_whole(store, named)


def test_what_a_model_was_made_from_stays(store: Store, ledger: Ledger) -> None:
    documents = save(store, "d", "documents")
    dataset = save(store, "x", documents=documents.id)
    model = save(store, "m", "model", dataset=dataset.id, gone="ds_" + "0" * 24, run="run_1")
    ledger.publish("model", "scholar", model.id)
    grow_old(store)
    assert collected(store, ledger) == 0
    ledger.remove_version("model", "scholar", 1)
    assert collected(store, ledger) > 0
    assert files(store) == []


def test_runs_need_what_they_read_until_they_end(store: Store, ledger: Ledger) -> None:
    result, going, ended = save(store, "r"), save(store, "g"), save(store, "e")
    ledger.publish("dataset", "books", result.id)
    ledger.create_run("run_1", "prepare", {"dataset": ended.id})
    ledger.set_phase("run_1", "succeeded", result={"dataset_id": result.id, "n_id": 3, "x": [1]})
    ledger.create_run("run_2", "train", {"stages": [{"dataset": going.id}]})
    grow_old(store, OLD_S - GRACE_S)
    plan = plan_gc(store, ledger, NOW_S)
    assert plan.unended_runs == ("run_2",)
    collect(plan)
    assert store.manifest_ids() == sorted([result.id, going.id])
    ledger.set_phase("run_2", "failed")
    collected(store, ledger)
    assert store.manifest_ids() == [result.id]
    ledger.remove_version("dataset", "books", 1)
    collected(store, ledger)
    assert store.manifest_ids() == []


def test_what_is_young_or_in_use_stays(store: Store, ledger: Ledger) -> None:
    manifest = save(store, "a")
    blobs = (store.put("b", b"b"),)
    store.remember("k", manifest.id)
    store.remember_blobs("b", blobs)
    grow_old(store, NOW_S - 10)
    assert collected(store, ledger) == 0
    plan = plan_gc(store, ledger, NOW_S, grace_s=0)
    assert len(plan.files) == 5
    grow_old(store, NOW_S + 10)
    assert collect(plan) == 0, "it was used since"
    grow_old(store, NOW_S - 10)
    assert collect(plan) == plan.size_bytes


def test_a_young_marker_keeps_its_result(store: Store, ledger: Ledger) -> None:
    manifest, entry = save(store, "a"), store.put("b", b"b")
    grow_old(store)
    store.remember("k", manifest.id)
    store.remember_blobs("b", [entry])
    for name in "kb":
        os.utime(store.root / "steps" / f"{name}.json", (NOW_S, NOW_S))
    assert plan_gc(store, ledger, NOW_S).files == ()


def test_what_a_running_build_made_or_used_stays_without_grace(
    store: Store, ledger: Ledger
) -> None:
    """It began long ago, what it recalled is older still."""
    recalled = (store.put("recalled", b"recalled"),)
    store.remember_blobs("k", recalled)
    unused = store.put("unused", b"unused")
    grow_old(store, OLD_S - GRACE_S)
    ledger.create_run("run_1", "prepare", {})
    assert store.recall_blobs("k") == recalled
    store.put("made", b"made")
    plan = plan_gc(store, ledger, NOW_S + 1, grace_s=0)
    assert [file.name for file in plan.files] == [unused.sha256]


def test_a_damaged_version_that_is_needed_stops_it(store: Store, ledger: Ledger) -> None:
    manifest = save(store, "a")
    ledger.publish("dataset", "books", manifest.id)
    path = store.root / "manifests" / f"{manifest.id}.json"
    path.chmod(0o644)
    path.write_bytes(b"{}")
    grow_old(store)
    with pytest.raises(CorruptError, match=manifest.id):
        plan_gc(store, ledger, NOW_S)
    ledger.remove_version("dataset", "books", 1)
    assert len(plan_gc(store, ledger, NOW_S).files) == 2


@pytest.mark.parametrize("n_removed", range(6))
def test_a_collection_that_is_killed_leaves_no_version_without_files(
    store: Store, ledger: Ledger, n_removed: int
) -> None:
    lost = save(store, "a b")
    store.remember("k", lost.id)
    grow_old(store)
    for file in plan_gc(store, ledger, NOW_S).files[:n_removed]:
        file.path.unlink()
    assert all(is_whole(store, store.load(i)) for i in store.manifest_ids())
    recalled = store.recall("k")
    assert recalled in (None, lost)
    collected(store, ledger, grace_s=-GRACE_S)
    assert files(store) == [] or recalled


GRAPHS = st.lists(
    st.tuples(
        st.sets(st.integers(0, 6), min_size=1, max_size=3),  # blobs
        st.sets(st.integers(0, 11), max_size=2),  # parents, of those before it
        st.sampled_from(["", "", "named", "result", "running", "young", "marked"]),
    ),
    max_size=9,
)


@pytest.mark.slow
@given(GRAPHS, st.sets(st.integers(0, 9)))
@settings(max_examples=60, deadline=None)
def test_what_is_needed_stays_and_all_else_goes(
    graph: list[tuple[set[int], set[int], str]], step_blobs: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), clock=lambda: NOW_S)
        with Ledger(Path(folder) / "ledger.sqlite", clock=lambda: OLD_S) as ledger:
            saved: list[Manifest] = []
            needed: set[str] = set()
            parents_of: dict[str, set[str]] = {}
            for number, (blobs, parents, _) in enumerate(graph):
                chosen = {str(p): saved[p].id for p in sorted(parents) if p < number}
                manifest = save(store, " ".join(map(str, blobs)), n=f"run_{number}", **chosen)
                saved.append(manifest)
                parents_of[manifest.id] = set(chosen.values())
                store.remember(f"step-{number}", manifest.id)
            store.remember_blobs("blobs", [store.put(str(b), b"%d" % b) for b in step_blobs])
            grow_old(store, OLD_S - GRACE_S)
            for manifest, (_, _, why) in zip(saved, graph, strict=True):
                if why in ("named", "running", "young"):
                    needed.add(manifest.id)
                if why == "named":
                    ledger.publish("dataset", "books", manifest.id)
                elif why == "result":
                    ledger.create_run(manifest.id, "prepare", {})
                    ledger.set_phase(manifest.id, "succeeded", result={"a_id": manifest.id})
                elif why == "running":
                    ledger.create_run(manifest.id, "train", {"a": [manifest.id]})
                elif why == "young":
                    path = store.root / "manifests" / f"{manifest.id}.json"
                    os.utime(path, (NOW_S, NOW_S))
            waiting = list(needed)
            while waiting:
                more = parents_of[waiting.pop()] - needed
                needed |= more
                waiting += more

            collected(store, ledger)

            assert set(store.manifest_ids()) == needed
            assert all(is_whole(store, manifest) for manifest in saved if manifest.id in needed)
            kept = {b.sha256 for m in saved if m.id in needed for b in m.blobs}
            assert {p.name for p in (store.root / "blobs").rglob("*") if p.is_file()} == kept
            recalled = [store.recall(f"step-{n}") for n in range(len(graph))]
            assert {m.id for m in recalled if m} == needed
            assert store.recall_blobs("blobs") is None or step_blobs
            assert collected(store, ledger) == 0, "once is enough"
