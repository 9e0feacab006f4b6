"""Chunks: what a read task makes.

Called for each task, wherever: files are read as a stream, each document is made normal, cut into
sections if its source says so, judged by itself, and given what later stages need of it. Pure but
for reading the files. Invariant: what a task makes depends on its files and rules alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from mulm.data.clean import Cleaner, prepare
from mulm.data.conversations import changed, is_pair
from mulm.data.decisions import OWN_NAMES
from mulm.data.dedup import DIGEST_BYTES, digest
from mulm.data.documents import CHUNK_BYTES, CHUNK_SCHEMA, content_hash, to_parquet
from mulm.data.executor import Product
from mulm.data.near import band_hashes
from mulm.data.personal import mask
from mulm.data.rules import CleanRules, NearRules
from mulm.data.sections import MIN_SECTION_CHARS, cut_sections
from mulm.data.sources.base import Part, RawDocument, Source, UnreadableError
from mulm.data.sources.registry import source_of
from mulm.data.tasks import ListedFile, ReadTask, require_unchanged
from mulm.data.texts import BATCH_CHARS
from mulm.errors import DataError

_DOCUMENT_CHARS = 64
"""What a document counts beside its text, so that a batch of empty ones has an end too."""
_REASON = re.compile("[a-z][a-z0-9_]{0,63}")
_SHOWN_CHARS = 64 << 10
"""What is kept of a reject."""


@dataclass(frozen=True, slots=True)
class ReadRules:
    """Everything of a recipe that decides what a chunk holds."""

    clean: CleanRules
    near: NearRules | None = None
    whole_files: bool = False
    """Whether all documents of a file are held out together."""
    contamination: np.ndarray | None = None
    """Sorted hashes of the n-grams of evaluations, if documents that hold one are dropped."""
    contamination_ngram: int = 13


@dataclass(frozen=True, slots=True)
class _Found:
    """A document or section on its way into a chunk."""

    listed: ListedFile
    part: Part
    row: int
    text: str
    reason: str
    messages: str


@dataclass(slots=True)
class _Chunk:
    tables: list[pa.Table] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, table: pa.Table) -> None:
        self.tables.append(table)
        self.size_bytes += table["text"].nbytes

    def product(self) -> Product:
        table = pa.concat_tables(self.tables)
        return Product("chunk.parquet", to_parquet(table), len(table), content_hash(table))


def read_chunks(rules: ReadRules, task: ReadTask) -> Iterator[Product]:
    """The chunks of a task, as Parquet files of `CHUNK_SCHEMA`.

    Raises:
        DataError: a file changed or vanished since it was listed.
    """
    cleaner = Cleaner(rules.clean, rules.contamination, rules.contamination_ngram)
    chunk = _Chunk()
    for batch in _batches(_found(task, rules)):
        chunk.add(_judged(batch, cleaner, rules))
        if chunk.size_bytes >= CHUNK_BYTES:
            yield chunk.product()
            chunk = _Chunk()
    if chunk.tables:
        yield chunk.product()


def _found(task: ReadTask, rules: ReadRules) -> Iterator[_Found]:
    source = source_of(task.spec.type)
    for listed, part in task.pieces:
        require_unchanged(listed)
        row = 0
        for raw in _documents(task, source, listed, part):
            for text, reason, messages in _tidied(raw, task.spec.sections, rules.clean):
                yield _Found(listed, part, row, text, reason, messages)
                row += 1
        require_unchanged(listed)


def _documents(
    task: ReadTask, source: Source, listed: ListedFile, part: Part
) -> Iterator[RawDocument]:
    n_read = 0
    try:
        for raw in source.read(task.spec, listed.file, part):
            n_read += 1
            _require_reason(raw, task)
            yield raw
    except UnreadableError as error:
        n_read += 1
        yield RawDocument(str(error), reason="unreadable")
    if not n_read and not part.start:
        yield RawDocument("", reason="empty")  # so that no file goes unmentioned


def _require_reason(raw: RawDocument, task: ReadTask) -> None:
    if raw.reason and (not _REASON.fullmatch(raw.reason) or raw.reason in OWN_NAMES):
        raise DataError(
            f"the source {task.spec.type!r} gives {raw.reason[:40]!r} as a reason",
            hint="a reason is a word of a-z, 0-9 and '_', and none of ours: "
            + ", ".join(sorted(OWN_NAMES)),
        )


def _tidied(
    raw: RawDocument, cuts: bool | None, rules: CleanRules
) -> Iterator[tuple[str, str, str]]:
    """(text, reason, messages) of what a raw document becomes.

    The reason is one that is known without reading the text.
    """
    if raw.reason:
        yield raw.text, raw.reason, ""
    elif raw.messages:
        said = changed(raw.messages, lambda text: mask(prepare(text, rules), rules.mask).rstrip())
        yield mask(prepare(raw.text, rules), rules.mask), "", said
    elif not (raw.may_be_cut if cuts is None else cuts):
        yield prepare(raw.text, rules), "", ""
    else:
        is_data = False
        for section in cut_sections(prepare(raw.text, rules)) or [""]:
            least_chars = 0 if is_data else MIN_SECTION_CHARS  # what is left of a word is cut too
            is_data = len(section) >= least_chars and _is_one_word(section)
            yield section, "too_long_line" if is_data else "", ""


def _is_one_word(section: str) -> bool:
    """Whether a section that had to be cut in the middle of a word is encoded data, no writing."""
    return section.isascii() and len(section.split(None, 1)) < 2


def _batches(found: Iterable[_Found]) -> Iterator[list[_Found]]:
    batch: list[_Found] = []
    n_chars = 0
    for document in found:
        batch.append(document)
        n_chars += len(document.text) + _DOCUMENT_CHARS
        if n_chars >= BATCH_CHARS:
            yield batch
            batch, n_chars = [], 0
    if batch:
        yield batch


def _judged(batch: list[_Found], cleaner: Cleaner, rules: ReadRules) -> pa.Table:
    cleaned = cleaner.clean([document.text for document in batch])
    reasons = [
        document.reason or reason for document, reason in zip(batch, cleaned.reasons, strict=True)
    ]
    texts = [
        _stored_text(document, text, reason)
        for document, text, reason in zip(batch, cleaned.texts, reasons, strict=True)
    ]
    by_text = [digest(text) for text in texts]
    columns = {
        "name": [document.listed.file.name for document in batch],
        "part": [document.part.start for document in batch],
        "row": [document.row for document in batch],
        "digest": _digests(batch, by_text),
        "group": _groups(batch, by_text, rules),
        "size_bytes": [len(text.encode()) for text in texts],
        "language": cleaned.languages,
        "reason": reasons,
        "bands": _bands(batch, texts, rules.near),
        "messages": [
            "" if reason else document.messages
            for document, reason in zip(batch, reasons, strict=True)
        ],
        "text": texts,
    }
    return pa.table(columns, schema=CHUNK_SCHEMA)


def _stored_text(document: _Found, text: str, reason: str) -> str:
    if reason:
        return text[:_SHOWN_CHARS]
    return document.text if document.messages else text  # a turn is changed as a whole or not


def _digests(batch: list[_Found], by_text: list[bytes]) -> list[bytes]:
    """Of each text; of a preference pair of both sides, since pairs may share the better answer."""
    return [
        digest(document.messages) if is_pair(document.messages) else own
        for document, own in zip(batch, by_text, strict=True)
    ]


def _groups(batch: list[_Found], by_text: list[bytes], rules: ReadRules) -> list[bytes]:
    if not rules.whole_files:
        return by_text
    return [bytes.fromhex(document.listed.sha256)[:DIGEST_BYTES] for document in batch]


def _bands(batch: list[_Found], texts: list[str], near: NearRules | None) -> list[bytes]:
    """MinHash bands; of nothing for a pair, whose text is that of one side."""
    if near is None:
        return [b""] * len(texts)
    compared = [
        "" if is_pair(document.messages) else text
        for document, text in zip(batch, texts, strict=True)
    ]
    return [row.astype("<u8").tobytes() for row in band_hashes(compared, near)]
