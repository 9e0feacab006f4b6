"""Differences of versions: settings, files, documents, bytes."""

from __future__ import annotations

from mulm.data.corpus import Corpus
from mulm.data.diff import (
    blob_sizes,
    document_changes,
    file_changes,
    setting_changes,
    shared_bytes,
)
from mulm.manifest import Manifest
from mulm.store import Store


def documents_of(store: Store, dataset: Manifest) -> Manifest:
    return store.load(dataset.parents["documents"])


def changes(store: Store, make_dataset, old, new, n: int = 5):
    corpora = [
        Corpus.of(store, documents_of(store, make_dataset(store, docs))) for docs in (old, new)
    ]
    return document_changes(*corpora, n)


def test_a_version_does_not_differ_from_itself(store: Store, make_dataset, some_documents) -> None:
    found = changes(store, make_dataset, some_documents, some_documents)
    assert found.n_same == len(some_documents)
    assert (found.decided, found.n_rewritten, found.added, found.removed) == ({}, 0, {}, {})


def test_each_kind_of_difference_is_told(store: Store, make_dataset, doc) -> None:
    old = [
        doc("same"),
        doc("moves", row=1),
        doc("before", row=2),
        doc("goes", row=3),
        doc("held", row=4),
    ]
    new = [
        doc("same"), doc("moves", name="z.txt", row=1), doc("after", row=2),
        doc("held", "validation", row=4), doc("comes", "too_short", row=9),
    ]  # fmt: skip
    found = changes(store, make_dataset, old, new)
    assert found.n_same == 2
    assert found.decided == {"train -> validation": 1}
    assert found.decided_pairs == ((4, 3),)
    assert found.n_rewritten == 1
    assert found.rewritten_pairs == ((2, 2),)
    assert (found.added, found.added_numbers) == ({"too_short": 1}, (4,))
    assert (found.removed, found.removed_numbers) == ({"train": 1}, (3,))


def test_equal_texts_are_matched_at_their_own_places(store: Store, make_dataset, doc) -> None:
    old = [doc("twin", name="b.txt"), doc("twin", "duplicate", name="c.txt", repeats=0)]
    new = [
        doc("twin", name="a.txt"),
        doc("twin", "duplicate", name="b.txt", repeats=0),
        doc("twin", "duplicate", name="c.txt", repeats=0),
    ]
    found = changes(store, make_dataset, old, new)
    assert found.decided == {"train -> duplicate": 1}
    assert found.n_same == 1
    assert (found.added, found.added_numbers) == ({"train": 1}, (0,))
    assert found.removed == {}


def test_no_more_samples_than_asked_for(store: Store, make_dataset, doc) -> None:
    new = [doc(f"text {k}", row=k) for k in range(9)]
    found = changes(store, make_dataset, [doc("other", name="b.txt")], new, n=2)
    assert len(found.added_numbers) == 2
    assert found.added == {"train": 9}


def test_settings_are_compared_by_dotted_name(store: Store, make_dataset, some_documents) -> None:
    old = make_dataset(store, some_documents)
    new = make_dataset(store, some_documents, min_chars=9, pack={"mode": "best_fit", "seq_len": 16})
    by_role = [{"documents": documents_of(store, v), "dataset": v} for v in (old, new)]
    told = {c.name: (c.before, c.after) for c in setting_changes(*by_role)}
    assert told == {
        "documents.clean.min_chars": (64, 9),
        "dataset.pack.mode": (None, "best_fit"),
        "dataset.pack.seq_len": (None, 16),
    }


def test_sources_are_compared_by_label(store: Store, make_dataset, doc) -> None:
    old, new = (make_dataset(store, [doc("x"), *more]) for more in ([], [doc("y", source="chats")]))
    by_role = [{"documents": documents_of(store, v), "dataset": v} for v in (old, new)]
    assert [c.name for c in setting_changes(*by_role)] == [
        "documents.sources.chats.licence", "documents.sources.chats.type"
    ]  # fmt: skip


def test_files_are_compared_by_name_and_checksum(store: Store, make_dataset, doc) -> None:
    old = make_dataset(store, [doc("one"), doc("two", name="b.txt"), doc("three", name="c.txt")])
    new = make_dataset(store, [doc("one"), doc("2", name="b.txt"), doc("four", name="d.txt")])
    found = file_changes(documents_of(store, old), documents_of(store, new))
    assert (found.added, found.removed, found.changed) == (("d.txt",), ("c.txt",), ("b.txt",))


def test_shared_bytes_are_those_of_common_blobs(store: Store, make_dataset, doc) -> None:
    old = make_dataset(store, [doc("one"), doc("x", source="chats")])
    new = make_dataset(store, [doc("one"), doc("y", source="chats")])
    sizes = [blob_sizes([v]) for v in (old, new)]
    common = {"train-00000.bin", "tokenizer.json", "validation.txt"}
    assert shared_bytes(*sizes) == sum(e.size_bytes for e in old.blobs if e.name in common)
