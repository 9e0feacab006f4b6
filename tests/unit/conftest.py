"""Dataset versions made by hand, for what looks into them, and a certificate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b, sha256
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mulm.data.decisions import Decisions
from mulm.data.documents import CHUNK_SCHEMA, to_parquet
from mulm.data.encode import EncodeRules, EncodeTask, encode_chunk
from mulm.data.tokenizer import Tokenizer
from mulm.manifest import Manifest
from mulm.store import Store
from mulm.testing import tiny_tokenizer

KEPT = ("train", "validation")


class Doc(NamedTuple):
    """A document, and what was decided of it."""

    text: str
    decision: str = "train"
    name: str = "a.txt"
    row: int = 0
    source: str = "books"
    language: str = "en"
    messages: str = ""
    repeats: int = -1


Make = Callable[..., Manifest]


@pytest.fixture
def make_dataset() -> Make:
    """make_dataset(store, documents, min_chars=64, **config of the dataset): a stored version."""
    return _make_dataset


@cache
def _tokenizer() -> Tokenizer:
    return tiny_tokenizer()


def _make_dataset(
    store: Store,
    documents: Sequence[Doc],
    min_chars: int = 64,
    row_len: int | None = None,
    **config: Any,
) -> Manifest:
    tokenizer = _tokenizer()
    names = (*KEPT, *sorted({doc.decision for doc in documents} - set(KEPT)))
    codes = np.array([names.index(doc.decision) for doc in documents], np.uint8)
    originals = {k: doc.repeats for k, doc in enumerate(documents) if doc.repeats >= 0}
    chunks, shards, counts, first = [], [], dict.fromkeys(_COUNTS, 0), 0
    rules = EncodeRules(config.get("chat_fraction", 0.0), row_len)
    for number, (label, group) in enumerate(groupby(documents, lambda doc: doc.source)):
        parquet = to_parquet(_table(rows := list(group)))
        chunks.append(store.put(f"chunk-{label}-{number:05}.parquet", parquet, len(rows)))
        own = codes[first : first + len(rows)]
        task = EncodeTask(lambda p=parquet: p, own == 0, own == 1)
        first += len(rows)
        for product in encode_chunk(tokenizer.to_bytes(), rules, task):
            stem, _, suffix = product.name.partition(".")
            if suffix == "json":
                found = json.loads(product.content)
                counts = {key: counts[key] + found[key] for key in counts}
            elif suffix in ("bin", "mask"):
                shard = f"{stem}-{number:05}.{suffix}"
                shards.append(store.put(shard, product.content, product.rows))
    decisions = Decisions(names, codes, originals)
    documents_version = Manifest(
        kind="documents",
        code_version="1",
        config={
            "sources": [
                {"label": label, "type": "text", "licence": "CC0-1.0"}
                for label in dict.fromkeys(doc.source for doc in documents)
            ],
            "files": [
                {"source": 0, "name": name, "sha256": sha256(_of(documents, name)).hexdigest()}
                for name in sorted({doc.name for doc in documents})
            ],
            "clean": {"min_chars": min_chars},
        },
        licences=("CC0-1.0",),
        counts={
            "files": len({doc.name for doc in documents}),
            "documents": sum(doc.decision in KEPT for doc in documents),
        },
        blobs=(*chunks, store.put("decisions.bin", decisions.to_bytes(), len(codes))),
    )
    vocabulary = Manifest(
        kind="tokenizer",
        code_version="1",
        config={"vocab_size": tokenizer.vocab_size},
        parents={"documents": documents_version.id},
        tokenizer_fingerprint=tokenizer.fingerprint,
        counts={"vocab_size": tokenizer.vocab_size},
        blobs=(store.put("tokenizer.json", tokenizer.to_bytes()),),
    )
    dataset = Manifest(
        kind="dataset",
        code_version="1",
        config=config,
        parents={"documents": documents_version.id, "tokenizer": vocabulary.id},
        tokenizer_fingerprint=tokenizer.fingerprint,
        licences=("CC0-1.0",),
        counts=counts,
        blobs=(*shards, *vocabulary.blobs, store.put("validation.txt", b"")),
    )
    for manifest in (documents_version, vocabulary, dataset):
        store.save(manifest)
    return dataset


_COUNTS = ("train_tokens", "validation_tokens", "train_bytes", "validation_bytes")


def _table(documents: Sequence[Doc]) -> pa.Table:
    rows = [
        {
            "name": doc.name,
            "part": 0,
            "row": doc.row,
            "digest": (digest := blake2b(doc.text.encode(), digest_size=16).digest()),
            "group": digest,
            "size_bytes": len(doc.text.encode()),
            "language": doc.language,
            "reason": "" if doc.decision in (*KEPT, "duplicate") else doc.decision,
            "bands": b"",
            "messages": doc.messages,
            "text": doc.text,
        }
        for doc in documents
    ]
    return pa.Table.from_pylist(rows, schema=CHUNK_SCHEMA)


def _of(documents: Sequence[Doc], name: str) -> bytes:
    return "".join(doc.text for doc in documents if doc.name == name).encode()


@pytest.fixture
def doc() -> type[Doc]:
    return Doc


@pytest.fixture
def some_documents() -> list[Doc]:
    """Twelve to train on, two held out, a duplicate of the first, a short one, a conversation."""
    talk = [
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "How are you?"},
    ]
    chat = "Hello there\nHow are you?"
    return [
        *(Doc(f"The wizard says hello, number {k}. " * (k + 1), row=k) for k in range(12)),
        *(Doc(f"Held {k}. There is more.", KEPT[1], "b.txt", k, language="de") for k in range(2)),
        Doc("The wizard says hello, number 0. ", "duplicate", "b.txt", 2, repeats=0),
        Doc("Hi \x1b[31m", "too_short", "c.txt"),
        Doc(chat, "train", "chat.jsonl", source="chats", messages=json.dumps(talk)),
    ]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate that nobody signed, for another name than the one it is reached by."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mulm.home")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_path, key_path
