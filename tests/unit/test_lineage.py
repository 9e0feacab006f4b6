from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mulm.errors import NotFoundError
from mulm.ledger import Ledger
from mulm.lineage import Relative, lineage, with_ancestors
from mulm.manifest import Kind, Manifest
from mulm.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


def save(store: Store, kind: Kind, name: str, **parents: str) -> Manifest:
    blob = store.put("a", name.encode())
    manifest = Manifest(kind=kind, code_version="0", config={}, parents=parents, blobs=(blob,))
    store.save(manifest)
    return manifest


def test_up_and_down_with_names(store: Store, ledger: Ledger) -> None:
    documents = save(store, "documents", "d")
    tokenizer = save(store, "tokenizer", "t", documents=documents.id)
    dataset = save(store, "dataset", "x", documents=documents.id, tokenizer=tokenizer.id)
    model = save(store, "model", "m", dataset=dataset.id, run="run_1", tokenizer=tokenizer.id)
    smaller = save(store, "model", "s", model=model.id)
    save(store, "model", "other")
    ledger.publish("dataset", "books", dataset.id)
    ledger.publish("dataset", "novels", dataset.id)
    ledger.publish("model", "scholar", model.id)

    found = lineage(store, ledger, dataset.id)
    assert (found.kind, found.refs) == ("dataset", ("books@1", "novels@1"))
    assert found.ancestors == (
        Relative(documents.id, "documents", 1, "documents", ()),
        Relative(tokenizer.id, "tokenizer", 1, "tokenizer", ()),
    )
    assert found.descendants == (
        Relative(model.id, "dataset", 1, "model", ("scholar@1",)),
        Relative(smaller.id, "model", 2, "model", ()),
    )
    ancestors = lineage(store, ledger, smaller.id).ancestors
    assert [(r.role, r.distance) for r in ancestors] == [
        ("model", 1), ("dataset", 2), ("run", 2), ("tokenizer", 2), ("documents", 3),
    ]  # fmt: skip
    assert ancestors[2] == Relative("run_1", "run", 2, None, ())


def test_a_parent_that_is_gone_is_still_told(store: Store, ledger: Ledger) -> None:
    gone = "ds_" + "0" * 24
    model = save(store, "model", "m", dataset=gone)
    assert lineage(store, ledger, model.id).ancestors == (Relative(gone, "dataset", 1, None, ()),)
    with pytest.raises(NotFoundError):
        lineage(store, ledger, gone)


def test_parents_come_before_their_children(store: Store) -> None:
    a = save(store, "documents", "a")
    b = save(store, "documents", "b", x=a.id)
    c = save(store, "documents", "c", x=a.id, y=b.id)
    d = save(store, "documents", "d", x=c.id, y=b.id, z=a.id, run="run_1")
    for asked in ([d.id], [d.id, a.id], [c.id, d.id, b.id, a.id]):
        order = list(with_ancestors(store, asked))
        assert sorted(order) == sorted([a.id, b.id, c.id, d.id])
        for manifest in (b, c, d):
            assert all(
                order.index(parent) < order.index(manifest.id)
                for parent in manifest.parents.values()
                if parent in order
            )
