from __future__ import annotations

import pickle

import pytest

from mulm.data.sources.registry import SOURCES, source_of
from mulm.data.sources.text import TextSource
from mulm.errors import ConfigError, NotFoundError, UnknownNameError


def test_names_of_ours() -> None:
    assert set(SOURCES) == {
        "auto", "text", "jsonl", "csv", "parquet", "books", "wikitext", "wikitext-whole-sentences",
    }  # fmt: skip
    assert all(pickle.loads(pickle.dumps(source_of(name))) for name in SOURCES)


def test_unknown_type_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'txt'") as caught:
        source_of("txt")
    assert "'text'" in caught.value.hint


def test_a_class_of_ones_own_by_its_import_path() -> None:
    assert source_of("mulm.data.sources.text:TextSource") == TextSource()


@pytest.mark.parametrize(
    "type_name",
    ["no_such_module:Source", "mulm.data.sources.text:Nothing", ":TextSource", "mulm.chat:Message"],
)
def test_a_class_that_cannot_be_made(type_name: str) -> None:
    with pytest.raises((NotFoundError, ConfigError), match="cannot make a source"):
        source_of(type_name)


def test_a_class_that_is_no_source() -> None:
    with pytest.raises(ConfigError, match="has no 'files'"):
        source_of("collections:Counter")
