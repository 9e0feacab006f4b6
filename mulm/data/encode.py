"""Encoding: a chunk of documents and what was decided of them to shards of tokens.

Called for each chunk, wherever. Pure but for reading the chunk. Each document is `<|endoftext|>`
and then its tokens; a conversation is learned only where the assistant speaks; the chosen part of
the plain training documents is written as turns of a chat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mulm.chat import Message, render, render_training
from mulm.config import canonical_json
from mulm.data.conversations import turns_of
from mulm.data.decisions import TRAIN, VALIDATION, Flags
from mulm.data.documents import from_parquet
from mulm.data.encoder import Encoder, encoder_of
from mulm.data.executor import Product
from mulm.data.pack import pack_rows
from mulm.data.split import fraction_of
from mulm.data.tokens import Ids, Tokens
from mulm.data.turns import as_turns

_BATCH_DOCUMENTS = 256
COLUMNS = ("digest", "messages", "text")


@dataclass(frozen=True, slots=True)
class EncodeTask:
    """One chunk to encode."""

    load: Callable[[], bytes]
    """Reads the chunk, wherever the task is carried out."""
    is_train: Flags
    """Which of its documents are trained on."""
    is_validation: Flags
    """Which are held out; the others are rejects."""


@dataclass(frozen=True, slots=True)
class EncodeRules:
    """Everything of a recipe that decides what tokens a chunk becomes."""

    chat_fraction: float = 0.0
    row_len: int | None = None
    """Tokens in a packed row of training; nothing if documents are laid end to end."""


def encode_chunk(tokenizer_json: bytes, rules: EncodeRules, task: EncodeTask) -> Iterator[Product]:
    """The shards of a chunk.

    Yields:
        `train.bin`, `train.mask`, `validation.bin`, `validation.mask`, `validation.txt` (what
        the learned tokens of the validation side stand for), each only if there is something in
        it, and `counts.json`.
    """
    encoder = encoder_of(tokenizer_json)
    table = from_parquet(task.load(), COLUMNS)
    counts: dict[str, int] = {}
    for side, is_own in ((TRAIN, task.is_train), (VALIDATION, task.is_validation)):
        own = table.filter(pa.array(is_own))
        documents, texts = _encode(own, encoder, rules.chat_fraction if side == TRAIN else 0.0)
        learned_bytes = sum(map(len, texts))
        tokens = _laid_out(documents, rules.row_len if side == TRAIN else None, encoder)
        counts |= {
            f"{side}_documents": len(documents),
            f"{side}_tokens": len(tokens),
            f"{side}_bytes": learned_bytes,
        }
        yield from _shards(side, tokens, encoder)
        if side == VALIDATION and texts:
            yield Product("validation.txt", b"".join(texts))
    yield Product("counts.json", canonical_json(counts))


def training_texts(
    chunks: Iterable[tuple[bytes, Flags]], chat_fraction: float, part: float = 1.0
) -> Iterator[str]:
    """What a tokenizer learns from: the training documents as they will be encoded.

    Args:
        chunks: Parquet files, and which of their documents are trained on.
        chat_fraction: As in `EncodeRules`, so that the roles' names become tokens.
        part: Which part of the documents to take, chosen by hash.
    """
    for parquet, is_train in chunks:
        own = from_parquet(parquet, COLUMNS).filter(pa.array(is_train))
        for row in own.to_pylist():
            key = row["digest"].hex()
            if part < 1 and fraction_of(key, "tokenizer") >= part:
                continue
            chat = turns_of(row["messages"]) or chat_of(row["text"], key, chat_fraction)
            yield _as_text(chat) or row["text"]


def chat_of(text: str, digest: str, chat_fraction: float) -> list[Message]:
    """The document as turns if it is among those chosen and has two, else nothing."""
    return as_turns(text) if fraction_of(digest, "chat") < chat_fraction else []


def _encode(
    table: pa.Table, encoder: Encoder, chat_fraction: float
) -> tuple[list[Tokens], list[bytes]]:
    """Tokens of each document, and the text that its learned tokens stand for."""
    documents: list[Tokens] = []
    texts: list[bytes] = []
    for batch in table.to_batches(_BATCH_DOCUMENTS):
        rows = batch.to_pylist()
        chats = [
            [] if row["messages"] else chat_of(row["text"], row["digest"].hex(), chat_fraction)
            for row in rows
        ]
        plain_texts = [
            row["text"]
            for row, chat in zip(rows, chats, strict=True)
            if not row["messages"] and not chat
        ]
        plain = iter(encoder.encode_batch(plain_texts))
        for row, chat in zip(rows, chats, strict=True):
            tokens, text = _encode_one(row, chat, plain, encoder)
            documents.append(tokens)
            texts.append(text.encode())
    return documents, texts


def _encode_one(
    row: dict[str, Any], chat: list[Message], plain: Iterator[Ids], encoder: Encoder
) -> tuple[Tokens, str]:
    if row["messages"]:
        turns = turns_of(row["messages"])
        said = "".join(turn.content for turn in turns if turn.role == "assistant")
        return _conversation_tokens(turns, encoder), said
    if chat:
        ids = np.array(render(chat, encoder.tokenizer, False), np.uint32)
        said = "".join(turn.content for turn in chat)
    else:
        ids, said = next(plain), row["text"]
    return _document(Tokens.all_learned(ids), encoder, is_learned=True), said


def _conversation_tokens(turns: list[Message], encoder: Encoder) -> Tokens:
    ids, learned = render_training(turns, encoder.tokenizer)
    tokens = Tokens(np.array(ids, np.uint32), np.array(learned, np.bool_))
    return _document(tokens, encoder, is_learned=False)


def _document(tokens: Tokens, encoder: Encoder, *, is_learned: bool) -> Tokens:
    first = np.array([encoder.tokenizer.end_of_text_id], np.uint32)
    return Tokens.joined([Tokens(first, np.array([is_learned])), tokens])


def _laid_out(documents: list[Tokens], row_len: int | None, encoder: Encoder) -> Tokens:
    if row_len is None:
        return Tokens.joined(documents)
    return pack_rows(documents, row_len, encoder.tokenizer.end_of_text_id)


def _shards(side: str, tokens: Tokens, encoder: Encoder) -> Iterator[Product]:
    if not len(tokens):
        return
    vocab_size = encoder.tokenizer.vocab_size
    yield Product(f"{side}.bin", tokens.shard(vocab_size), len(tokens))
    if mask := tokens.mask():
        yield Product(f"{side}.mask", mask, len(tokens))


def _as_text(chat: list[Message]) -> str:
    return "".join(f"{message.role}\n{message.content}\n" for message in chat)
