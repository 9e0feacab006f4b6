"""Encoding: a shard of documents to a shard of tokens.

Called for each shard, wherever. Pure. Each document is `<|endoftext|>` and then its tokens;
the chosen part of the training documents is written as turns of a chat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from mulm.chat import Message, render
from mulm.data.documents import from_parquet
from mulm.data.split import fraction_of
from mulm.data.tokenizer import Tokenizer
from mulm.data.turns import as_turns


@dataclass(frozen=True, slots=True)
class Encoded:
    """A shard of tokens: little-endian uint16, or uint32 for more than 65536 ids."""

    content: bytes
    n_tokens: int
    n_documents: int
    n_text_bytes: int
    """UTF-8 bytes of the text that the tokens stand for."""

    @property
    def counts(self) -> dict[str, int]:
        """What a manifest says of it."""
        return {
            "tokens": self.n_tokens,
            "documents": self.n_documents,
            "bytes": self.n_text_bytes,
        }


def encode_shard(tokenizer_json: bytes, parquet: bytes, chat_fraction: float) -> Encoded:
    """Encode the documents of a shard in order.

    Args:
        tokenizer_json: The tokenizer.
        parquet: A shard of `mulm.data.documents`.
        chat_fraction: The part of the documents written as turns; 0 for validation.
    """
    tokenizer = Tokenizer.from_bytes(tokenizer_json)
    texts, chats = _apart(parquet, chat_fraction)
    plain_ids = dict(zip(texts, tokenizer.encode_batch(list(texts.values())), strict=True))
    chat_ids = {row: render(chat, tokenizer, False) for row, chat in chats.items()}
    ids_by_row = plain_ids | chat_ids
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    parts = [
        np.array([tokenizer.end_of_text_id, *ids_by_row[row]], dtype=dtype)
        for row in sorted(ids_by_row)
    ]
    tokens = np.concatenate(parts) if parts else np.zeros(0, dtype)
    n_text_bytes = sum(len(text.encode()) for text in _all_texts(texts, chats))
    return Encoded(tokens.tobytes(), len(tokens), len(ids_by_row), n_text_bytes)


def training_texts(
    shards: Iterable[bytes], chat_fraction: float, part: float = 1.0
) -> Iterator[str]:
    """What a tokenizer learns from: the training documents as they will be encoded.

    Args:
        shards: Parquet shards of training documents.
        chat_fraction: As for `encode_shard`, so that the roles' names become tokens.
        part: Which part of the documents to take, chosen by hash.
    """
    for parquet in shards:
        table = from_parquet(parquet)
        pairs = zip(table["text"].to_pylist(), table["digest"].to_pylist(), strict=True)
        for text, key in pairs:
            if part < 1 and fraction_of(key, "tokenizer") >= part:
                continue
            yield _as_text(chat_of(text, key, chat_fraction)) or text


def chat_of(text: str, digest: str, chat_fraction: float) -> list[Message]:
    """The document as turns if it is among those chosen and has two, else nothing."""
    return as_turns(text) if fraction_of(digest, "chat") < chat_fraction else []


def _apart(parquet: bytes, chat_fraction: float) -> tuple[dict[int, str], dict[int, list[Message]]]:
    """Plain texts and chats by row."""
    table = from_parquet(parquet)
    texts: dict[int, str] = dict(enumerate(table["text"].to_pylist()))
    keys = table["digest"].to_pylist()
    chats = {row: chat_of(texts[row], keys[row], chat_fraction) for row in texts}
    plain = {row: text for row, text in texts.items() if not chats[row]}
    return plain, {row: chat for row, chat in chats.items() if chat}


def _all_texts(texts: dict[int, str], chats: dict[int, list[Message]]) -> Iterator[str]:
    yield from texts.values()
    for chat in chats.values():
        yield from (message.content for message in chat)


def _as_text(chat: list[Message]) -> str:
    return "".join(f"{message.role}\n{message.content}\n" for message in chat)
