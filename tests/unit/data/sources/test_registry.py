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
    "type_name", ["no_such_module:Source", "mulm.data.sources.text:Nothing", ":TextSource"]
)
def test_a_class_that_cannot_be_imported(type_name: str) -> None:
    with pytest.raises(NotFoundError, match="cannot import the source") as caught:
        source_of(type_name)
    assert "PYTHONPATH" in caught.value.hint


class Demanding(TextSource):
    def __init__(self, argument: int) -> None: ...


@pytest.mark.parametrize("type_name", ["collections:Counter", "os:getcwd", "mulm.chat:Message"])
def test_what_is_no_source_is_not_called(type_name: str) -> None:
    with pytest.raises(ConfigError, match="has no 'files'"):
        source_of(type_name)


def test_a_source_that_wants_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mulm.data.sources.text.Demanding", Demanding, raising=False)
    with pytest.raises(ConfigError, match="argument"):
        source_of("mulm.data.sources.text:Demanding")
