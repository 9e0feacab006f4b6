from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mulm.config import load_config, parse_config
from mulm.data.recipe import Recipe
from mulm.errors import ConfigError, UnknownNameError

SOURCES = [{"path": "books"}]


def test_public_fields() -> None:
    assert list(Recipe.model_fields) == [
        "name", "sources", "clean", "dedup", "decontaminate", "split", "tokenizer", "pack",
        "chat_fraction", "runs_on",
    ]  # fmt: skip


def test_the_sample_is_a_recipe() -> None:
    recipe = load_config(Recipe, Path("examples/sample.yaml"))
    assert recipe.name == "sample"
    assert recipe.split.by == "file"


@pytest.mark.parametrize(
    "values",
    [
        {"name": "Big Books", "sources": SOURCES},
        {"name": "a", "sources": []},
        {"name": "a", "sources": SOURCES, "split": {"validation_fraction": 0}},
        {"name": "a", "sources": SOURCES, "split": {"by": "chapter"}},
        {"name": "a", "sources": SOURCES, "chat_fraction": 2},
        {"name": "a", "sources": SOURCES, "tokenizer": {"ref": "x y"}},
        {"name": "a", "sources": SOURCES, "tokenizer": {"ref": "x", "vocab_size": 512}},
    ],
)
def test_impossible_values(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse_config(Recipe, values)


def test_unknown_key_names_the_nearest() -> None:
    values = {"name": "a", "sources": SOURCES, "clean": {"min_char": 3}}
    with pytest.raises(UnknownNameError, match=r"clean\.min_char") as caught:
        parse_config(Recipe, values)
    assert "min_chars" in caught.value.hint
