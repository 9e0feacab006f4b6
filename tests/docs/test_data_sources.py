"""The page on sources: its own source runs and keeps the contract, its recipes are recipes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from mulm.config import load_config, parse_config
from mulm.data.recipe import Recipe
from mulm.data.source_spec import SourceSpec
from mulm.data.sources.base import Part
from mulm.data.sources.formats import COMPRESSIONS, FORMATS
from mulm.data.sources.registry import SOURCES, source_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/data-sources.md").read_text(encoding="utf-8")
RECIPES = sorted((ROOT / "examples/recipes").glob("*.yaml"))
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(language: str) -> list[str]:
    return [text for kind, text in _BLOCK.findall(PAGE) if kind == language]


def test_a_source_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source_code, contract_code = blocks("python")
    assert len(source_code.splitlines()) < 60
    (tmp_path / "subtitles.py").write_text(source_code)
    (tmp_path / "films").mkdir()
    film = "1\n00:00:01,000 --> 00:00:02,000\nHello.\n\n2\n00:00:03,000 --> 00:00:04,000\nBye.\n"
    (tmp_path / "films" / "a.srt").write_text(film)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(contract_code, {})  # it asserts by itself
    source, spec = source_of("subtitles:SubtitleSource"), SourceSpec(path="films")
    [file] = source.files(spec)
    assert [d.text for d in source.read(spec, file, Part())] == ["Hello.\n\nBye."]
    sys.modules.pop("subtitles")


@pytest.mark.parametrize("text", blocks("yaml"))
def test_recipes_of_the_page(text: str) -> None:
    parse_config(Recipe, yaml.safe_load(text))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_that_are_ready(path: Path) -> None:
    recipe = load_config(Recipe, path)
    assert recipe.name == path.stem
    assert all(source_of(source.type) for source in recipe.sources)
    assert all(source.licence != "unknown" for source in recipe.sources)


def test_every_type_and_suffix_is_on_the_page() -> None:
    types = set(re.findall(r"^\| `([\w-]+)` \|", PAGE, re.M))
    assert set(SOURCES) <= types
    assert all(f"`{suffix}`" in PAGE for suffix in (*FORMATS, *COMPRESSIONS))
