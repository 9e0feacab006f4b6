from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest

from mulm.data.corpus import Corpus
from mulm.data.decisions import INDEX_COLUMNS, TRAIN, VALIDATION, Decisions, Index
from mulm.data.documents import content_hash, from_parquet, to_parquet
from mulm.data.near import band_hashes
from mulm.data.repetitions import Known, find_repetitions
from mulm.data.rules import DedupRules, NearRules
from mulm.manifest import Manifest
from mulm.store import Store

Documents = Callable[..., pa.Table]
NEAR = NearRules(min_similarity=0.7)


def text_of(seed: int, n_changed: int = 0) -> str:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghij", k=6)) for _ in range(200)]
    for place in range(n_changed):
        words[place * 17] = "other"
    return " ".join(words) + "\n"


@pytest.fixture
def chunks(store: Store, documents: Documents) -> Callable[..., Corpus]:
    """chunks([texts of a chunk, ...], rejected=numbers): a build that has not decided yet."""

    def make(parts: Sequence[Sequence[str]], rejected: Sequence[int] = ()) -> Corpus:
        blobs, n = [], 0
        for k, texts in enumerate(parts):
            reasons = ["bad" if n + row in rejected else "" for row in range(len(texts))]
            bands = [row.astype("<u8").tobytes() for row in band_hashes(list(texts), NEAR)]
            table = documents(texts, reason=reasons, bands=bands)
            n += len(texts)
            name = f"chunk-a-{k:05}.parquet"
            blobs.append(store.put(name, to_parquet(table), len(table), content_hash(table)))
        return Corpus.undecided(store, tuple(blobs))

    return make


def index_of(store: Store, corpus: Corpus) -> Index:
    return Index.of([from_parquet(store.read(c.entry), INDEX_COLUMNS) for c in corpus.chunks])


@pytest.fixture
def version(store: Store, documents: Documents) -> Corpus:
    """A version that keeps texts 1 and 2, and rejected text 3."""
    table = documents([text_of(1), text_of(3), text_of(2)])
    decisions = Decisions((TRAIN, VALIDATION, "bad"), np.array([0, 2, 1], np.uint8), {})
    manifest = Manifest(
        kind="documents", code_version="v", config={},
        blobs=(
            store.put("chunk-a-00000.parquet", to_parquet(table), 3),
            store.put("decisions.bin", decisions.to_bytes(), 3),
        ),
    )  # fmt: skip
    return Corpus.of(store, manifest)


def test_exact_repetitions_across_chunks(store: Store, chunks: Callable[..., Corpus]) -> None:
    corpus = chunks([[text_of(9), text_of(1)], [text_of(1) + "\n ", text_of(9), text_of(2)]], [0])
    found = find_repetitions(index_of(store, corpus), corpus, DedupRules())
    assert found.original.tolist() == [-1, -1, 1, -1, -1]
    assert not found.is_near.any()
    assert not found.is_known.any()


def test_near_repetitions_across_chunks(store: Store, chunks: Callable[..., Corpus]) -> None:
    corpus = chunks(
        [[text_of(1, 3), text_of(1)], [text_of(2), text_of(1, 2), text_of(1), text_of(2, 12)]], [0]
    )
    found = find_repetitions(index_of(store, corpus), corpus, DedupRules(near=NEAR))
    assert found.original.tolist() == [-1, -1, -1, 1, 1, -1], "a reject is nobody's original"
    assert found.is_near.tolist() == [False, False, False, True, False, False]
    without = find_repetitions(index_of(store, corpus), corpus, DedupRules())
    assert without.original.tolist() == [-1, -1, -1, -1, 1, -1]


def test_many_texts_are_asked_for_chunk_by_chunk(
    store: Store, chunks: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [text_of(seed, n) for n in range(2) for seed in range(300)]
    corpus = chunks([texts[:200], texts[200:450], texts[450:]])
    index = index_of(store, corpus)
    read: list[str] = []
    table = corpus.table
    monkeypatch.setattr(
        corpus,
        "table",
        lambda chunk, columns: (read.append(chunk.entry.name), table(chunk, columns))[1],
    )
    found = find_repetitions(index, corpus, DedupRules(near=NEAR))
    assert found.original.tolist() == [-1] * 300 + list(range(300))
    assert read == [chunk.entry.name for chunk in corpus.chunks]


def test_what_another_version_keeps_is_known(
    store: Store, chunks: Callable[..., Corpus], version: Corpus
) -> None:
    corpus = chunks([[text_of(5), text_of(2)], [text_of(1, 2), text_of(3), text_of(5, 2)]])
    found = find_repetitions(index_of(store, corpus), corpus, DedupRules(near=NEAR), [version])
    assert found.is_known.tolist() == [False, True, True, False, False]
    assert found.original.tolist() == [-1, -1, -1, -1, 0]
    exact = find_repetitions(index_of(store, corpus), corpus, DedupRules(), [version])
    assert exact.is_known.tolist() == [False, True, False, False, False]


def test_several_versions_count(
    store: Store, chunks: Callable[..., Corpus], version: Corpus
) -> None:
    other = chunks([[text_of(8)], [text_of(7), text_of(6)]])
    corpus = chunks([[text_of(1, 1), text_of(6, 1), text_of(4)], [text_of(8), text_of(4, 1)]])
    rules = DedupRules(near=NEAR)
    for against in ([version, other], [other, version]):
        found = find_repetitions(index_of(store, corpus), corpus, rules, against)
        assert found.is_known.tolist() == [True, True, False, True, False]
        assert found.original.tolist() == [-1, -1, -1, -1, 2]


def test_known_are_those_that_were_kept(version: Corpus) -> None:
    known = Known.of(version, NEAR)
    assert known.numbers.tolist() == [0, 2]
    assert len(known.digests) == 2
    assert known.bands is not None
    assert known.bands.tolist() == band_hashes([text_of(1), text_of(2)], NEAR).tolist()
    assert Known.of(version, None).bands is None


def test_a_version_that_kept_nothing(
    store: Store, chunks: Callable[..., Corpus], documents: Documents
) -> None:
    table = documents([text_of(1)])
    blobs = (
        store.put("chunk-a-00000.parquet", to_parquet(table), 1),
        store.put(
            "decisions.bin", Decisions((TRAIN, "bad"), np.array([1], np.uint8), {}).to_bytes()
        ),
    )
    empty = Corpus.of(store, Manifest(kind="documents", code_version="v", config={}, blobs=blobs))
    corpus = chunks([[text_of(1), text_of(1, 1)]])
    found = find_repetitions(index_of(store, corpus), corpus, DedupRules(near=NEAR), [empty])
    assert not found.is_known.any()
    assert found.original.tolist() == [-1, 0]
