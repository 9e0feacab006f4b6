from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from mulm.chat import Message, render
from mulm.config import canonical_json
from mulm.data.clean import normalise
from mulm.data.conversations import turns_of
from mulm.data.decisions import TRAIN, VALIDATION
from mulm.data.documents import to_parquet
from mulm.data.encode import (
    EncodeRules,
    EncodeTask,
    chat_of,
    encode_chunk,
    training_texts,
)
from mulm.data.tokenizer import Tokenizer
from mulm.data.tokens import Tokens

Documents = Callable[..., pa.Table]
Files = dict[str, bytes]

TEXTS = [normalise(f"Tale {i}. Once there was a fox.\nIt ran <|im_end|> far.") for i in range(9)]
TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Where is the fox?"},
    {"role": "assistant", "content": "It ran far away, é."},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "It sleeps <|im_end|> now."},
]


def task_of(table: pa.Table, codes: Sequence[int]) -> EncodeTask:
    decided = np.array(codes)
    return EncodeTask(partial(bytes, to_parquet(table)), decided == 0, decided == 1)


def encode(tokenizer: Tokenizer, task: EncodeTask, rules: EncodeRules = EncodeRules()) -> Files:  # noqa: B008
    products = list(encode_chunk(tokenizer.to_bytes(), rules, task))
    files = {product.name: product.content for product in products}
    assert len(files) == len(products)
    for product in products:
        if product.name.endswith(".bin"):
            assert product.rows * 2 == len(product.content)
    return files


def tokens_in(files: Files, side: str) -> Tokens:
    ids = np.frombuffer(files[f"{side}.bin"], "<u2").astype(np.uint32)
    if f"{side}.mask" not in files:
        return Tokens.all_learned(ids)
    bits = np.unpackbits(np.frombuffer(files[f"{side}.mask"], np.uint8), bitorder="little")
    return Tokens(ids, bits[: len(ids)].astype(np.bool_))


def learned_text(tokenizer: Tokenizer, tokens: Tokens) -> str:
    return tokenizer.decode(tokens.ids[tokens.learned].tolist())


def counts_in(files: Files) -> dict[str, int]:
    counts: dict[str, int] = json.loads(files["counts.json"])
    return counts


def test_documents_begin_with_end_of_text_and_rejects_are_left_out(
    tokenizer: Tokenizer, documents: Documents
) -> None:
    codes = [0, 1, 2, 0, 0, 1, 0, 2, 0]
    files = encode(tokenizer, task_of(documents(TEXTS), codes))
    assert sorted(files) == ["counts.json", "train.bin", "validation.bin", "validation.txt"]
    for number, side in enumerate((TRAIN, VALIDATION)):
        own = [text for text, code in zip(TEXTS, codes, strict=True) if code == number]
        ids = tokens_in(files, side).ids.tolist()
        assert ids == [i for text in own for i in (0, *tokenizer.encode(text))]
        assert tokenizer.decode(ids) == "".join(own)
        counts = counts_in(files)
        assert counts[f"{side}_documents"] == len(own)
        assert counts[f"{side}_tokens"] == len(ids)
        assert counts[f"{side}_bytes"] == sum(len(text.encode()) for text in own)
    assert files["validation.txt"].decode() == TEXTS[1] + TEXTS[5]


def test_many_documents_keep_their_order(tokenizer: Tokenizer, documents: Documents) -> None:
    texts = [f"Number {n}.\n" for n in range(1000)]
    files = encode(tokenizer, task_of(documents(texts), [1] * 1000))
    assert files["validation.txt"].decode() == "".join(texts)
    assert learned_text(tokenizer, tokens_in(files, VALIDATION)) == "".join(texts)
    assert "train.bin" not in files
    assert counts_in(files)["train_tokens"] == 0


def test_a_chunk_of_rejects_gives_nothing_but_counts(
    tokenizer: Tokenizer, documents: Documents
) -> None:
    files = encode(tokenizer, task_of(documents(TEXTS), [2] * 9))
    assert list(files) == ["counts.json"]
    assert set(counts_in(files).values()) == {0}


def test_only_the_assistant_is_learned(tokenizer: Tokenizer, documents: Documents) -> None:
    messages = canonical_json(TURNS).decode()
    table = documents(["shown", "plain text\n", "shown"], messages=[messages, "", messages])
    files = encode(tokenizer, task_of(table, [1, 1, 0]))
    said = "It ran far away, é.It sleeps <|im_end|> now."
    assert files["validation.txt"].decode() == f"{said}plain text\n"
    assert counts_in(files)["validation_bytes"] == len(files["validation.txt"])
    assert counts_in(files)["train_bytes"] == len(said.encode())
    train = tokens_in(files, TRAIN)
    assert train.ids.tolist() == [0, *render([Message(**t) for t in TURNS], tokenizer, False)]  # type: ignore[arg-type]
    assert learned_text(tokenizer, train) == said
    assert train.ids[train.learned].tolist().count(tokenizer.id_of("<|im_end|>")) == 2, (
        "its own ends"
    )
    assert tokenizer.id_of("<|im_start|>") not in train.ids[train.learned]
    assert not train.learned[0]
    assert learned_text(tokenizer, tokens_in(files, VALIDATION)) == f"{said}plain text\n"


def test_of_a_preference_pair_the_chosen_side_is_learned(
    tokenizer: Tokenizer, documents: Documents
) -> None:
    other = [*TURNS[:-1], {"role": "assistant", "content": "Who knows."}]
    pair = canonical_json({"chosen": TURNS, "rejected": other}).decode()
    whole = canonical_json(TURNS).decode()
    one = encode(tokenizer, task_of(documents(["x"], messages=[pair]), [0]))
    assert one == encode(tokenizer, task_of(documents(["x"], messages=[whole]), [0]))
    assert turns_of(pair) == turns_of(whole)
    assert turns_of("") == []


def test_chosen_documents_become_turns(tokenizer: Tokenizer, documents: Documents) -> None:
    task = task_of(documents(TEXTS), [0] * 9)
    ids = tokens_in(encode(tokenizer, task, EncodeRules(chat_fraction=0.5)), TRAIN).ids.tolist()
    assert ids.count(tokenizer.end_of_text_id) == 9
    n_chats = ids.count(tokenizer.id_of("<|im_start|>")) // 2
    assert 0 < n_chats < 9
    assert ids.count(tokenizer.id_of("<|im_start|>")) == ids.count(tokenizer.id_of("<|im_end|>"))
    everything = encode(tokenizer, task, EncodeRules(chat_fraction=1.0))
    assert tokens_in(everything, TRAIN).ids.tolist().count(tokenizer.id_of("<|im_start|>")) == 18
    assert "train.mask" not in everything


def test_held_out_documents_stay_plain(tokenizer: Tokenizer, documents: Documents) -> None:
    task = task_of(documents(TEXTS), [1] * 9)
    plain = encode(tokenizer, task)
    assert encode(tokenizer, task, EncodeRules(chat_fraction=1.0)) == plain


@pytest.mark.parametrize("row_len", [17, 65])
def test_packed_rows_hold_every_training_token(
    tokenizer: Tokenizer, documents: Documents, row_len: int
) -> None:
    messages = [canonical_json(TURNS).decode() if n == 4 else "" for n in range(9)]
    task = task_of(documents(TEXTS, messages=messages), [0, 1, 0, 0, 0, 1, 0, 2, 0])
    plain = encode(tokenizer, task)
    packed = encode(tokenizer, task, EncodeRules(row_len=row_len))
    tokens = tokens_in(packed, TRAIN)
    assert len(tokens) % row_len == 0
    assert len(tokens) == counts_in(packed)["train_tokens"]
    assert counts_in(packed)["train_bytes"] == counts_in(plain)["train_bytes"]
    assert text_ids(tokenizer, tokens) == text_ids(tokenizer, tokens_in(plain, TRAIN))
    for name in ("validation.bin", "validation.txt"):
        assert packed[name] == plain[name]


def text_ids(tokenizer: Tokenizer, tokens: Tokens) -> list[int]:
    """What is learned, but for the ends of texts."""
    is_text = tokens.learned & (tokens.ids != tokenizer.end_of_text_id)
    return sorted(tokens.ids[is_text].tolist())


def test_a_wide_vocabulary_has_wide_tokens(
    tokenizer: Tokenizer, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, "vocab_size", 70_000)
    products = list(
        encode_chunk(tokenizer.to_bytes(), EncodeRules(), task_of(documents(TEXTS), [0] * 9))
    )
    assert len(products[0].content) == 4 * products[0].rows


def test_tasks_travel_between_processes(tokenizer: Tokenizer, documents: Documents) -> None:
    task = task_of(documents(TEXTS), [0, 1] * 4 + [2])
    assert encode(tokenizer, pickle.loads(pickle.dumps(task))) == encode(tokenizer, task)


def test_a_text_without_turns_stays_plain() -> None:
    assert chat_of("One sentence only", "d", 1.0) == []
    assert chat_of("Two of them. In one.", "d", 0.0) == []


def test_training_texts_are_what_is_encoded(documents: Documents) -> None:
    messages = [canonical_json(TURNS).decode() if n == 3 else "" for n in range(9)]
    codes = [0, 1, 0, 0, 0, 0, 0, 2, 0]
    task = task_of(documents(TEXTS, messages=messages), codes)
    chunk = (task.load(), task.is_train)
    texts = list(training_texts([chunk], 0.0))
    plain = [TEXTS[n] for n in (0, 2, 4, 5, 6, 8)]
    assert [*texts[:2], *texts[3:]] == plain
    assert texts[2].startswith("system\nBe kind.\nuser\nWhere")
    chats = list(training_texts([chunk], 1.0))
    assert all("user\n" in text and "assistant\n" in text for text in chats)
    part = list(training_texts([chunk], 0.0, part=0.5))
    assert 0 < len(part) < 7
    assert part == list(training_texts([chunk], 0.0, part=0.5))
    assert list(training_texts([chunk, chunk], 0.0)) == texts * 2
