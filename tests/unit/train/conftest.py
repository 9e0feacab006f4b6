"""Small versions of conversations and of preference pairs, built as real ones are; workers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mulm.data.build import build
from mulm.data.recipe import Recipe
from mulm.data.tokenizer import Tokenizer
from mulm.manifest import Manifest
from mulm.store import Store
from tests.unit.train.workers import Workers

BuildRows = Callable[..., Manifest]


def question(number: int) -> str:
    return f"What comes after {number} when one counts on" + " and on" * (number % 3) + "?"


@dataclass(frozen=True, slots=True)
class Rows:
    """What the versions are built from."""

    chats: list[dict[str, Any]]
    pairs: list[dict[str, Any]]


@pytest.fixture(scope="session")
def rows() -> Rows:
    answers = [f"It is {n + 1}" + ", I think" * (n % 4) + "." for n in range(60)]
    turns = [
        [{"role": "user", "content": question(n)}, {"role": "assistant", "content": answer}]
        for n, answer in enumerate(answers)
    ]
    pairs = [
        {"prompt": question(n), "chosen": answer, "rejected": "No idea" + "!" * (n % 5 + 1)}
        for n, answer in enumerate(answers)
    ]
    return Rows([{"messages": turn} for turn in turns], pairs)


@pytest.fixture(scope="session")
def build_rows(tmp_path_factory: pytest.TempPathFactory) -> BuildRows:
    """build_rows(store, rows): a dataset version of JSONL rows, built once and copied."""

    @cache
    def built(content: str) -> tuple[Path, Manifest]:
        folder = tmp_path_factory.mktemp("rows")
        (folder / "rows.jsonl").write_text(content)
        recipe: dict[str, Any] = {
            "name": "rows", "sources": [{"path": str(folder / "rows.jsonl"), "type": "auto"}],
            "tokenizer": {"vocab_size": 320}, "split": {"validation_fraction": 0.3},
            "clean": {"min_chars": 4},
        }  # fmt: skip
        root = folder / "store"
        return root, build(Recipe.model_validate(recipe), Store(root)).dataset

    def make(store: Store, rows: list[dict[str, Any]]) -> Manifest:
        root, dataset = built("\n".join(json.dumps(row) for row in rows))
        shutil.copytree(root, store.root, dirs_exist_ok=True)
        return dataset

    return make


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[[Store, Manifest], Tokenizer]:
    def read(store: Store, dataset: Manifest) -> Tokenizer:
        return Tokenizer.from_bytes(store.read(dataset.blob("tokenizer.json")))

    return read


@pytest.fixture(scope="session")
def _shared_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Workers]]:
    started: list[Workers] = []
    yield started
    for group in started:
        group.close()


@pytest.fixture
def workers(_shared_workers: list[Workers], tmp_path_factory: pytest.TempPathFactory) -> Workers:
    """workers.run(function, ...): what function(rank, ...) returns in two processes with gloo."""
    if not _shared_workers or not _shared_workers[-1].is_alive:
        _shared_workers.append(Workers(tmp_path_factory.mktemp("workers")))
    return _shared_workers[-1]
