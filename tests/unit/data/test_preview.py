"""Previews: the same documents each time, encoded as they were built."""

from __future__ import annotations

from hashlib import sha256
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulm.data.corpus import UNKNOWN, Corpus
from mulm.data.preview import choose, pieces_of, shown, window
from mulm.manifest import Manifest
from mulm.store import Store


@pytest.fixture
def version(store: Store, make_dataset, some_documents):
    return make_dataset(store, some_documents)


@pytest.fixture
def corpus(store: Store, version) -> Corpus:
    return Corpus.of(store, store.load(version.parents["documents"]))


def test_a_seed_chooses_the_same_documents_and_another_seed_others(corpus: Corpus) -> None:
    chosen = {seed: choose(corpus, ("train",), 3, seed) for seed in range(8)}
    assert chosen[0] == choose(corpus, ("train",), 3, 0)
    assert len({tuple(numbers) for numbers in chosen.values()}) > 4
    assert choose(corpus, ("train",), 2, 5) == chosen[5][:2]


def test_only_what_is_asked_for_is_chosen(corpus: Corpus) -> None:
    assert sorted(choose(corpus, ("validation",), 9)) == [12, 13]
    assert sorted(choose(corpus, ("duplicate", "too_short"), 9)) == [14, 15]
    assert choose(corpus, ("train",), 9, source="chats") == [16]
    assert choose(corpus, ("train",), 9, grep="NUMBER 11") == [11]
    assert choose(corpus, ("train",), 9, grep=".*") == []
    assert choose(corpus, ("nothing",), 9) == []
    assert choose(corpus, ("train",), 0) == []


def test_documents_are_shown_in_the_order_asked(corpus: Corpus) -> None:
    documents = shown(corpus, [16, 13, 14])
    assert [d.decision for d in documents] == ["train", "validation", "duplicate"]
    assert [d.source for d in documents] == ["chats", "books", "books"]
    assert shown(corpus, []) == []


@pytest.mark.parametrize("chat_fraction", [0.0, 1.0])
def test_the_tokens_shown_are_those_of_the_shards(
    store: Store, make_dataset, some_documents, chat_fraction: float
) -> None:
    version = make_dataset(store, some_documents, chat_fraction=chat_fraction)
    corpus = Corpus.of(store, store.load(version.parents["documents"]))
    vocabulary = store.read(version.blob("tokenizer.json"))
    for number, name in ((0, "train-00000"), (1, "train-00001")):
        chunk = corpus.chunks[number]
        numbers = (chunk.first + np.flatnonzero(chunk.decisions.are("train"))).tolist()
        pieces = [
            piece
            for document in shown(corpus, numbers)
            for piece in pieces_of(corpus, document, vocabulary, chat_fraction)
        ]
        ids = np.frombuffer(store.read(version.blob(f"{name}.bin")), "<u2")
        assert [piece.id for piece in pieces] == ids.tolist()
        masks = [entry for entry in version.blobs if entry.name == f"{name}.mask"]
        bits = np.frombuffer(store.read(masks[0]), np.uint8) if masks else np.array([], np.uint8)
        learned = (
            np.unpackbits(bits, count=len(ids), bitorder="little") if masks else np.ones(len(ids))
        )
        assert [piece.is_learned for piece in pieces] == learned.astype(bool).tolist()


def test_only_the_assistant_is_learned(store: Store, version, corpus: Corpus) -> None:
    vocabulary = store.read(version.blob("tokenizer.json"))
    pieces = pieces_of(corpus, shown(corpus, [16])[0], vocabulary, 0.0)
    assert "".join(p.text for p in pieces if p.is_learned) == "How are you?<|im_end|>"
    assert pieces[0].text == "<|endoftext|>"
    assert pieces[0].is_special


def test_half_a_character_is_shown_as_bytes(store: Store, make_dataset, doc) -> None:
    version = make_dataset(store, [doc("a€")])
    corpus = Corpus.of(store, store.load(version.parents["documents"]))
    vocabulary = store.read(version.blob("tokenizer.json"))
    pieces = pieces_of(corpus, shown(corpus, [0])[0], vocabulary, 0.0)
    assert [p.text for p in pieces[1:]] == ["a", "\\xe2", "\\x82", "\\xac"]
    assert [p.completes for p in pieces[1:]] == ["a", "", "", "€"]


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 100))
def test_a_window_holds_what_was_found(length: int, found: int, size: int) -> None:
    part = window(length, found, size)
    assert part.stop - part.start == min(length, size)
    if found < length:
        assert part.start <= found < part.stop


def test_versions_of_earlier_releases_are_shown_too(store: Store, make_dataset, doc) -> None:
    vocabulary = store.read(make_dataset(store, [doc("x")]).blob("tokenizer.json"))
    shards = []
    for side, texts in (("train", ["one", "two"]), ("validation", ["three"]), ("rejects", ["4"])):
        rows = [
            {"name": "a", "section": k, "digest": sha256(text.encode()).hexdigest(),
             "reason": "too_short" if side == "rejects" else "", "text": text}
            for k, text in enumerate(texts)
        ]  # fmt: skip
        content = BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), content)
        shards.append(store.put(f"{side}-00000.parquet", content.getvalue(), len(rows)))
    manifest = Manifest(kind="documents", code_version="0", config={}, blobs=tuple(shards))
    corpus = Corpus.of(store, manifest)
    assert sorted(choose(corpus, ("train",), 9)) == [0, 1]
    (rejected,) = shown(corpus, choose(corpus, ("too_short",), 9))
    assert (rejected.text, rejected.source) == ("4", UNKNOWN)
    pieces = pieces_of(corpus, shown(corpus, [2])[0], vocabulary, 0.0)
    assert "".join(p.completes for p in pieces) == "<|endoftext|>three"
