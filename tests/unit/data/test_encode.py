from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mulm.data.clean import normalise
from mulm.data.documents import DOCUMENT_SCHEMA, to_parquet
from mulm.data.encode import chat_of, encode_shard, training_texts
from mulm.data.tokenizer import Tokenizer

Texts = list[str]


@pytest.fixture
def texts() -> Texts:
    return [normalise(f"Tale {i}. Once there was a fox.\nIt ran <|im_end|> far.") for i in range(9)]


@pytest.fixture
def parquet(texts: Texts) -> bytes:
    rows = [(0, i, "a.txt", f"{i}", "g", len(t), "", t) for i, t in enumerate(texts)]
    return to_parquet(pa.table([list(c) for c in zip(*rows, strict=True)], schema=DOCUMENT_SCHEMA))


def test_documents_begin_with_end_of_text(
    tokenizer: Tokenizer, parquet: bytes, texts: Texts
) -> None:
    encoded = encode_shard(tokenizer.to_bytes(), parquet, 0.0)
    ids = np.frombuffer(encoded.content, "<u2").tolist()
    assert ids == [i for text in texts for i in (0, *tokenizer.encode(text))]
    assert encoded.n_tokens == len(ids)
    assert encoded.n_documents == 9
    assert encoded.n_text_bytes == sum(len(text.encode()) for text in texts)
    assert tokenizer.decode(ids) == "".join(texts)


def test_chosen_documents_become_turns(tokenizer: Tokenizer, parquet: bytes) -> None:
    encoded = encode_shard(tokenizer.to_bytes(), parquet, 0.5)
    ids = np.frombuffer(encoded.content, "<u2").tolist()
    assert ids.count(tokenizer.end_of_text_id) == 9
    n_chats = ids.count(tokenizer.im_start_id) // 2
    assert 0 < n_chats < 9
    assert ids.count(tokenizer.im_start_id) == ids.count(tokenizer.im_end_id)
    everything = encode_shard(tokenizer.to_bytes(), parquet, 1.0).content
    assert np.frombuffer(everything, "<u2").tolist().count(tokenizer.im_start_id) == 18


def test_a_text_without_turns_stays_plain() -> None:
    assert chat_of("One sentence only", "d", 1.0) == []


def test_training_texts_are_what_is_encoded(parquet: bytes, texts: Texts) -> None:
    assert list(training_texts([parquet], 0.0)) == texts
    chats = list(training_texts([parquet], 1.0))
    assert all(text.startswith("user\nTale") and "assistant\n" in text for text in chats)
    part = list(training_texts([parquet], 0.0, part=0.5))
    assert 0 < len(part) < 9
    assert part == list(training_texts([parquet], 0.0, part=0.5))
