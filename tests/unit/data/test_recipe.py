from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mulm.config import load_config, parse_config
from mulm.data.recipe import Recipe
from mulm.errors import ConfigError, UnknownNameError

SOURCES = [{"path": "books"}]
TWO = [{"path": "books"}, {"path": "news"}]


def test_public_fields() -> None:
    assert list(Recipe.model_fields) == [
        "name", "sources", "clean", "dedup", "decontaminate", "split", "tokenizer", "pack",
        "chat_fraction", "runs_on",
    ]  # fmt: skip
    assert frozenset({"runs_on"}) == Recipe.NOT_IDENTITY


def test_the_sample_is_a_recipe() -> None:
    recipe = load_config(Recipe, Path("examples/sample.yaml"))
    assert recipe.name == "sample"


@pytest.mark.parametrize(
    "values",
    [
        {"name": "Big Books"},
        {"sources": []},
        {"split": {"validation_fraction": 0}},
        {"split": {"by": "chapter"}},
        {"chat_fraction": 2},
        {"tokenizer": {"ref": "x y"}},
        {"tokenizer": {"ref": "x", "vocab_size": 512}},
        {"sources": [{"path": "a", "name": "same"}, {"path": "b", "name": "same"}]},
        {"sources": [{"path": "a"}, {"path": "b", "name": "source1"}]},
        {"sources": [{"path": "a", "weight": 1}, {"path": "b"}]},
        {"sources": [{"path": "a", "weight": 0}]},
        {"sources": [{"path": ""}]},
        {"sources": [{}]},
        {"sources": [{"path": "a", "file": "file_1"}]},
        {"sources": [{"content": {"name": "a", "sha256": "abc", "size_bytes": 1}}]},
        {"sources": [{"path": "a", "held_out": True}]},
        {"sources": [{"path": "a", "name": "Not a name"}]},
        {"sources": [{"path": "a", "sha256": "abc"}]},
        {"pack": {"mode": "best_fit"}},
        {"pack": {"seq_len": 64}},
        {"pack": {"mode": "best_fit", "seq_len": 2}},
        {"dedup": {"near": {"min_similarity": 0}}},
        {"decontaminate": {"paths": []}},
        {"clean": {"quality": ["mine"]}},
        {"clean": {"mask": ["name"]}},
        {"runs_on": "mars"},
    ],
    ids=str,
)
def test_impossible_values(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(Recipe, {"name": "a", "sources": SOURCES, **values})
    assert caught.value.message


@pytest.mark.parametrize(
    ("values", "key", "nearest"),
    [
        ({"clean": {"min_char": 3}}, r"clean\.min_char", "min_chars"),
        ({"source": []}, "source", "sources"),
        ({"dedup": {"nears": {}}}, r"dedup\.nears", "near"),
    ],
)
def test_unknown_key_names_the_nearest(values: dict[str, Any], key: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=key) as caught:
        parse_config(Recipe, {"name": "a", "sources": SOURCES, **values})
    assert nearest in caught.value.hint


def test_sources_are_called_by_name_or_number() -> None:
    values = {"name": "a", "sources": [*TWO, {"path": "x", "name": "poems"}]}
    assert parse_config(Recipe, values).labels == ("source1", "source2", "poems")


def test_a_mixture_has_a_weight_for_each_source() -> None:
    assert parse_config(Recipe, {"name": "a", "sources": TWO}).mixture == {}
    weighed = [{"path": "a", "weight": 2}, {"path": "b", "weight": 0.5, "name": "b"}]
    recipe = parse_config(Recipe, {"name": "a", "sources": weighed})
    assert recipe.mixture == {"source1": 2.0, "b": 0.5}
