"""Statistics of a version: counted chunk by chunk, and what fills packed rows is no document."""

from __future__ import annotations

import numpy as np
import pytest

from mulm.data.corpus import UNKNOWN
from mulm.data.stats import Stats, stats_of, token_lengths
from mulm.data.tokenizer import Tokenizer
from mulm.store import Store


def counted(store: Store, dataset) -> Stats:
    tokenizer = Tokenizer.from_bytes(store.read(dataset.blob("tokenizer.json")))
    documents = store.load(dataset.parents["documents"])
    return stats_of(store, documents, dataset, tokenizer.end_of_text_id)


def named(bars) -> dict[str, int]:
    return {bar.name: bar.count for bar in bars}


def test_documents_are_counted_by_language_source_and_reason(
    store: Store, make_dataset, some_documents
) -> None:
    told = counted(store, make_dataset(store, some_documents))
    assert (told.documents, told.rejected) == (15, 2)
    assert named(told.languages) == {"en": 13, "de": 2}
    assert named(told.sources) == {"books": 14, "chats": 1}
    assert named(told.reasons) == {"duplicate": 1, "too_short": 1}
    kept = [d for d in some_documents if d.decision in ("train", "validation")]
    assert told.size_bytes == sum(len(d.text.encode()) for d in kept)
    assert sum(bar.size_bytes for bar in told.lengths) == told.size_bytes


def test_lengths_are_in_buckets_that_double_and_have_no_gaps(
    store: Store, make_dataset, doc
) -> None:
    lengths = (63, 64, 127, 128, 1024)
    texts = [doc(chr(97 + k) * length, row=k) for k, length in enumerate(lengths)]
    told = counted(store, make_dataset(store, texts))
    assert named(told.lengths) == {
        "32-64": 1, "64-128": 2, "128-256": 1, "256-512": 0, "512-1K": 0, "1K-2K": 1
    }  # fmt: skip


@pytest.mark.parametrize("row_len", [None, 4000])
def test_tokens_are_counted_by_document_packed_or_not(
    store: Store, make_dataset, some_documents, row_len: int | None
) -> None:
    told = counted(store, make_dataset(store, some_documents, row_len=row_len))
    assert sum(named(told.tokens).values()) == told.documents


def test_end_of_text_that_fills_a_row_is_no_document() -> None:
    counts = token_lengths([np.array([0, 5, 6, 7, 0, 8, 0, 0, 0], np.uint16)], 0)
    assert {int(bits): int(counts[bits]) for bits in np.flatnonzero(counts)} == {1: 1, 2: 1}


def test_no_documents_no_bars(store: Store, make_dataset, doc) -> None:
    told = counted(store, make_dataset(store, [doc("x", "too_short")]))
    assert (told.documents, told.lengths, told.tokens) == (0, (), ())


def test_an_earlier_layout_has_no_sources(store: Store) -> None:
    from mulm.data.corpus import Chunk
    from mulm.data.decisions import Decisions

    entry = store.put("train-00000.parquet", b"")
    assert Chunk(entry, 0, Decisions((), np.zeros(0, np.uint8), {})).source == UNKNOWN
