from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mulm.data.dedup import digest
from mulm.data.documents import CHUNK_SCHEMA
from mulm.data.recipe import Recipe
from mulm.data.tokenizer import Tokenizer, train_tokenizer
from mulm.store import Store

Prose = Callable[[int, int], str]
Documents = Callable[..., pa.Table]


@pytest.fixture(scope="session")
def prose() -> Prose:
    """prose(seed, n_paragraphs): made-up English with chapters, the same for the same seed."""

    def write(seed: int, n_paragraphs: int) -> str:
        rng = random.Random(seed)
        words = [
            "".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(1, 9))) for _ in range(400)
        ]
        paragraphs = []
        for i in range(n_paragraphs):
            sentences = [" ".join(rng.choices(words, k=12)).capitalize() + "." for _ in range(5)]
            heading = f"CHAPTER {i // 8 + 1}\n\n" if i % 8 == 0 else ""
            paragraphs.append(heading + "\n".join(sentences))
        return "\n\n".join(paragraphs) + "\n"

    return write


@pytest.fixture(scope="session")
def documents() -> Documents:
    """documents(texts, column=values, ...): a chunk; a column not given is made of the texts."""

    def make(texts: Sequence[str], **given: Sequence[Any]) -> pa.Table:
        n = len(texts)
        columns = {
            "name": ["a.txt"] * n,
            "part": [0] * n,
            "row": list(range(n)),
            "digest": [digest(text) for text in texts],
            "group": given.get("digest", [digest(text) for text in texts]),
            "size_bytes": [len(text.encode()) for text in texts],
            "language": [""] * n,
            "reason": [""] * n,
            "bands": [b""] * n,
            "messages": [""] * n,
            "text": list(texts),
        }
        return pa.table(columns | given, schema=CHUNK_SCHEMA)

    return make


@pytest.fixture(scope="session")
def tokenizer(prose: Prose) -> Tokenizer:
    return train_tokenizer([prose(0, 40), "user assistant system tool\n" * 20], 512)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def corpus(tmp_path: Path, prose: Prose) -> Path:
    """A folder with three readable files, a duplicate, and five that must be rejected."""
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    for seed in range(3):
        (folder / f"book-{seed}.txt").write_text(prose(seed, 120))
    (folder / "deep" / "again.md").write_text(prose(1, 120).replace("\n", "\r\n"))
    (folder / "binary.txt").write_bytes(b"\x7fELF\0\0\0\0" * 100)
    (folder / "blank.txt").write_text(" \n\t\n")
    (folder / "broken.txt.gz").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\x03abc")
    (folder / "latin1.txt").write_bytes("Café au lait, s'il vous plaît. ".encode("latin-1") * 9)
    (folder / "short.txt").write_text("Too short.")
    return folder


@pytest.fixture
def recipe(corpus: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "sources": [{"path": str(corpus), "licence": "CC0-1.0"}],
            "tokenizer": {"vocab_size": 512},
            "split": {"validation_fraction": 0.15},
            "chat_fraction": 0.3,
        }
    )
