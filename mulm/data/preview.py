"""Preview: some documents of a version, their tokens, and what of them is learned.

Called by `mulm data preview` and `mulm data rejects`. Documents are chosen by hash, so that the
same version and seed show the same ones anywhere. Invariants: a document is encoded by the code
that built the version; texts are returned as they were stored, so not yet harmless to a terminal.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mulm.data.corpus import Corpus
from mulm.data.decisions import TRAIN, VALIDATION
from mulm.data.documents import CHUNK_SCHEMA, to_parquet
from mulm.data.encode import EncodeRules, EncodeTask, encode_chunk
from mulm.data.encoder import encoder_of
from mulm.data.tokenizer import IncrementalDecoder, Tokenizer

Keys = np.ndarray[tuple[int], np.dtype[np.uint64]]
_COLUMNS = ("name", "part", "row", "size_bytes", "language", "text")
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Shown:
    """A document as it is shown; texts are as they were stored, so not yet harmless."""

    number: int
    """Its place in the version."""
    source: str
    name: str
    part: int
    row: int
    decision: str
    language: str
    size_bytes: int
    text: str


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a document."""

    id: int
    text: str
    """What it stands for; bytes that are no characters by themselves as `\\xe2`."""
    completes: str
    """The characters that end with it: joined over all tokens they are the document."""
    is_special: bool
    is_learned: bool


def choose(
    corpus: Corpus,
    decisions: Collection[str],
    n: int,
    seed: int = 0,
    *,
    source: str | None = None,
    grep: str = "",
) -> list[int]:
    """The numbers of `n` documents, by hash of their text and `seed`.

    Args:
        corpus: Where to choose.
        decisions: What must have become of them, such as "train" or "duplicate".
        n: At most so many.
        seed: Another one chooses others.
        source: Only those of this source.
        grep: Only those that hold this text, in capitals or not.
    """
    best: list[tuple[int, int]] = []
    for chunk in corpus.chunks:
        are_such = [chunk.decisions.are(name) for name in decisions]
        is_wanted = np.logical_or.reduce([np.zeros(chunk.entry.rows, np.bool_), *are_such])
        if (source is not None and chunk.source != source) or not is_wanted.any():
            continue
        table = corpus.table(chunk, ("digest", "text") if grep else ("digest",))
        if grep:
            found = pc.match_substring(table["text"], grep, ignore_case=True)
            is_wanted &= found.to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(is_wanted)
        keys = _keys(table["digest"].to_pylist(), seed)[rows]
        order = np.argsort(keys, kind="stable")[:n]
        numbers = (chunk.first + rows[order]).tolist()
        best = sorted([*best, *zip(keys[order].tolist(), numbers, strict=True)])[:n]
    return [number for _, number in best]


def shown(corpus: Corpus, numbers: Sequence[int]) -> list[Shown]:
    """Documents by number, in the given order."""
    if not numbers:
        return []
    firsts = [chunk.first for chunk in corpus.chunks]
    places = np.searchsorted(firsts, numbers, side="right") - 1
    documents = []
    for number, place, row in zip(numbers, places, corpus.rows(numbers, _COLUMNS), strict=True):
        chunk = corpus.chunks[place]
        decision = chunk.decisions.names[int(chunk.decisions.codes[number - chunk.first])]
        documents.append(Shown(number, chunk.source, decision=decision, **row))
    return documents


def pieces_of(
    corpus: Corpus, document: Shown, tokenizer_json: bytes, chat_fraction: float
) -> list[Piece]:
    """The tokens of a document as training reads them, the end of text before it included."""
    row = next(corpus.rows([document.number], CHUNK_SCHEMA.names))
    parquet = to_parquet(pa.Table.from_pylist([row], schema=CHUNK_SCHEMA))
    side = document.decision
    task = EncodeTask(lambda: parquet, np.array([side == TRAIN]), np.array([side == VALIDATION]))
    made: dict[str, Any] = {
        product.name: product.content
        for product in encode_chunk(tokenizer_json, EncodeRules(chat_fraction), task)
    }
    if f"{side}.bin" not in made:
        return []
    tokenizer = encoder_of(tokenizer_json).tokenizer
    decoder = IncrementalDecoder(tokenizer)
    width = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    ids = np.frombuffer(made[f"{side}.bin"], width)
    mask = made.get(f"{side}.mask") or b"\xff" * len(ids)
    learned = np.unpackbits(np.frombuffer(mask, np.uint8), count=len(ids), bitorder="little")
    return [
        _piece(token_id, bool(is_learned), tokenizer, decoder)
        for token_id, is_learned in zip(ids.tolist(), learned.tolist(), strict=True)
    ]


def window(length: int, found: int, size: int) -> slice:
    """What to show of something long: its beginning, or around where something was found."""
    start = max(0, min(found - size // 4, length - size)) if found > size * 3 // 4 else 0
    return slice(start, min(length, start + size))


def _piece(
    token_id: int, is_learned: bool, tokenizer: Tokenizer, decoder: IncrementalDecoder
) -> Piece:
    content = tokenizer.token_bytes(token_id)
    if not content:
        names = {special_id: name for name, special_id in tokenizer.special_tokens.items()}
        name = names.get(token_id, f"<|{token_id}|>")
        return Piece(token_id, name, name, True, is_learned)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "".join(f"\\x{byte:02x}" for byte in content)
    return Piece(token_id, text, decoder.push([token_id]), False, is_learned)


def _keys(digests: list[bytes], seed: int) -> Keys:
    """A number for each digest that another seed makes another one of."""
    halves = np.frombuffer(b"".join(digests), "<u8").reshape(len(digests), -1)
    values: Keys = halves[:, 0].astype(np.uint64)
    values ^= np.uint64((seed * int(_MIX)) % (1 << 64))
    values *= _MIX
    values ^= values >> np.uint64(29)
    values *= _MIX
    values ^= values >> np.uint64(32)
    return values
