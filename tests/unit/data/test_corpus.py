from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mulm.data.corpus import Corpus
from mulm.data.decisions import TRAIN, VALIDATION, Decisions
from mulm.data.documents import CHUNK_SCHEMA, content_hash, to_parquet
from mulm.errors import CorruptError
from mulm.manifest import BlobEntry, Manifest
from mulm.store import Store

Documents = Callable[..., pa.Table]
NAMES = (TRAIN, VALIDATION, "duplicate")
SIZES = (3, 1, 4)
CODES = np.array([0, 1, 2, 0, 2, 2, 0, 1], np.uint8)
TEXTS = [f"Document {n}, é." for n in range(8)]


def manifest_of(*blobs: BlobEntry) -> Manifest:
    return Manifest(kind="documents", code_version="v", config={}, blobs=blobs)


def stored(store: Store, name: str, table: pa.Table) -> BlobEntry:
    return store.put(name, to_parquet(table), len(table), content_hash(table))


@pytest.fixture
def chunk_blobs(store: Store, documents: Documents) -> list[BlobEntry]:
    cuts = np.cumsum([0, *SIZES])
    return [
        stored(store, f"chunk-my-books-{k:05}.parquet", documents(TEXTS[start:stop]))
        for k, (start, stop) in enumerate(pairwise(cuts))
    ]


@pytest.fixture
def corpus(store: Store, chunk_blobs: list[BlobEntry]) -> Corpus:
    decisions = Decisions(NAMES, CODES, {4: 0})
    own = store.put("decisions.bin", decisions.to_bytes(), 8)
    return Corpus.of(store, manifest_of(*chunk_blobs, own))


@pytest.fixture
def old(store: Store) -> Corpus:
    """As earlier releases wrote it: a file for each decision."""
    sides = {"train": [0, 3, 6], "validation": [1, 7], "rejects": [2, 4, 5]}
    blobs = []
    for side, numbers in sides.items():
        reasons = {2: "too_short", 4: "duplicate", 5: "duplicate"}
        texts = [TEXTS[n] for n in numbers]
        table = pa.table(
            {
                "name": ["a.txt"] * len(numbers),
                "section": pa.array(numbers, pa.int32()),
                "digest": [hashlib.sha256(text.encode()).hexdigest() for text in texts],
                "reason": [reasons.get(n, "") for n in numbers],
                "text": texts,
            }
        )
        content = BytesIO()
        pq.write_table(table, content, compression="zstd")
        blobs.append(store.put(f"{side}-00000.parquet", content.getvalue(), len(numbers)))
    return Corpus.of(store, manifest_of(*blobs))


def test_chunks_know_what_was_decided(corpus: Corpus) -> None:
    assert len(corpus) == 8
    assert [chunk.first for chunk in corpus.chunks] == [0, 3, 4]
    assert [chunk.source for chunk in corpus.chunks] == ["my-books"] * 3
    assert (
        np.concatenate([chunk.decisions.codes for chunk in corpus.chunks]).tolist()
        == CODES.tolist()
    )
    assert corpus.chunks[2].decisions.are("duplicate").tolist() == [True, True, False, False]
    assert corpus.chunks[0].decisions.are("never").tolist() == [False] * 3
    assert corpus.decisions.originals == {4: 0}
    texts = [t for c in corpus.chunks for t in corpus.table(c, ["text"])["text"].to_pylist()]
    assert texts == TEXTS
    assert corpus.table(corpus.chunks[0]).schema == CHUNK_SCHEMA


@given(st.lists(st.integers(0, 7), max_size=12))
@settings(max_examples=25)
def test_rows_in_any_order_and_again(rows_of: Callable[..., list[str]], numbers: list[int]) -> None:
    assert rows_of(numbers) == [TEXTS[number] for number in numbers]


@pytest.fixture(scope="module")
def rows_of(
    tmp_path_factory: pytest.TempPathFactory, documents: Documents
) -> Callable[[list[int]], list[str]]:
    store = Store(tmp_path_factory.mktemp("store"))
    cuts = np.cumsum([0, *SIZES])
    blobs = [
        stored(store, f"chunk-a-{k:05}.parquet", documents(TEXTS[start:stop]))
        for k, (start, stop) in enumerate(pairwise(cuts))
    ]
    corpus = Corpus.undecided(store, tuple(blobs))
    return lambda numbers: [row["text"] for row in corpus.rows(numbers, ["text"])]


def test_each_chunk_is_read_once(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    table = corpus.table

    def counted(chunk: object, columns: object) -> pa.Table:
        read.append(chunk.entry.name)  # type: ignore[attr-defined]
        return table(chunk, columns)  # type: ignore[arg-type]

    monkeypatch.setattr(corpus, "table", counted)
    rows = list(corpus.rows([7, 0, 5, 0, 6], ["name", "text"]))
    assert [row["text"] for row in rows] == [TEXTS[n] for n in (7, 0, 5, 0, 6)]
    assert len(read) == 2


def test_undecided_is_all_train(store: Store, chunk_blobs: list[BlobEntry]) -> None:
    corpus = Corpus.undecided(store, tuple(chunk_blobs))
    assert all(chunk.decisions.are(TRAIN).all() for chunk in corpus.chunks)
    assert len(corpus.decisions.codes) == 8


def test_decisions_of_other_documents_are_corrupt(
    store: Store, chunk_blobs: list[BlobEntry]
) -> None:
    decisions = store.put("decisions.bin", Decisions(NAMES, CODES, {}).to_bytes(), 8)
    corpus = Corpus.of(store, manifest_of(*chunk_blobs[1:], decisions))
    with pytest.raises(CorruptError, match="other documents than it decided of"):
        _ = corpus.chunks


def test_chunks_without_decisions_are_corrupt(store: Store, chunk_blobs: list[BlobEntry]) -> None:
    with pytest.raises(CorruptError, match="none of documents: 'chunk-my-books-00000"):
        _ = Corpus.of(store, manifest_of(*chunk_blobs)).chunks


def test_versions_of_earlier_releases_stay_readable(old: Corpus) -> None:
    assert len(old) == 8
    assert [chunk.first for chunk in old.chunks] == [0, 3, 5]
    assert [chunk.decisions.are(TRAIN).sum() for chunk in old.chunks] == [3, 0, 0]
    assert [chunk.decisions.are(VALIDATION).sum() for chunk in old.chunks] == [0, 2, 0]
    assert old.chunks[2].decisions.are("duplicate").tolist() == [False, True, True]
    assert old.decisions.counts() == {"train": 3, "validation": 2, "duplicate": 2, "too_short": 1}
    table = old.table(old.chunks[2])
    assert table.schema == CHUNK_SCHEMA
    assert table["text"].to_pylist() == [TEXTS[2], TEXTS[4], TEXTS[5]]
    assert table["row"].to_pylist() == [2, 4, 5]
    assert table["size_bytes"].to_pylist() == [len(TEXTS[2].encode())] * 3
    assert table["digest"][0].as_py() == hashlib.sha256(TEXTS[2].encode()).digest()[:16]
    assert table["reason"].to_pylist() == ["too_short", "duplicate", "duplicate"]
    rows = old.rows([7, 0, 5], ["text", "reason", "messages"])
    assert [row["text"] for row in rows] == [TEXTS[5], TEXTS[0], TEXTS[2]]
    assert old.table(old.chunks[0], ["text", "bands"]).column_names == ["text", "bands"]


def test_a_version_of_nothing_we_know_is_corrupt(store: Store) -> None:
    with pytest.raises(CorruptError):
        _ = Corpus.of(store, manifest_of(store.put("readme.md", b"hello", 1))).chunks


def test_a_damaged_chunk_is_named(store: Store, corpus: Corpus) -> None:
    path = store.path(corpus.chunks[1].entry)
    path.chmod(0o644)
    path.write_bytes(b"?" * path.stat().st_size)
    with pytest.raises(CorruptError, match="chunk-my-books-00001"):
        list(corpus.rows([3], ["text"]))
