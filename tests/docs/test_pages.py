"""The pages tell the truth: links lead somewhere, tables agree with the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from jobs.exit_codes import EXIT_BY_CODE
from mulm.config import Frozen
from mulm.data.recipe import Recipe
from mulm.errors import error_classes
from mulm.model.presets import PRESETS, preset
from mulm.train.config import TrainConfig
from serve_app.errors import STATUS_BY_CODE
from serve_app.settings import AppArgs

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("corpora/*.md")])
PACKAGES = ("mulm", "actors", "serve_app", "jobs", "benchmarks")
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
_ERROR_ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| (\d+) \|", re.M)
_MODULE_ROW = re.compile(r"^\| `([\w.]+)` \|", re.M)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path: Path) -> None:
    targets = [link for link in _LINK.findall(path.read_text("utf-8")) if "://" not in link]
    assert [link for link in targets if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_placeholder_is_left(path: Path) -> None:
    left = r"TODO|FIXME|XXX|TBD|^(?:<{7}|={7}|>{7})(?: .*)?$"  # the latter of an unfinished merge
    assert re.findall(left, path.read_text("utf-8"), re.M) == []


def test_errors_page_agrees_with_the_tables() -> None:
    rows = [(code, int(exit_), int(status)) for code, exit_, status in
            _ERROR_ROW.findall(page("docs/errors.md"))]  # fmt: skip
    codes = sorted((cls.code for cls in error_classes()), key=EXIT_BY_CODE.__getitem__)
    assert rows == [(code, EXIT_BY_CODE[code], STATUS_BY_CODE[code]) for code in codes]


def test_every_key_is_on_the_configuration_page() -> None:
    _, recipe, training, serving = page("docs/configuration.md").split("\n## ")
    for schema, text in ((Recipe, recipe), (TrainConfig, training), (AppArgs, serving)):
        rows = dict(re.findall(r"^\| `([\w.]+)` \|([^|]*)\|", text, re.M))
        told = {key: value.strip("` ") for key, value in rows.items() if key not in PRESETS}
        assert told == keys_of(schema)


def keys_of(schema: type[Frozen], prefix: str = "") -> dict[str, str]:
    """Dotted keys of a schema, and their defaults as the page writes them."""
    keys: dict[str, str] = {}
    for name, field in schema.model_fields.items():
        parts = (field.annotation, *get_args(field.annotation))
        sections = [p for p in parts if isinstance(p, type) and issubclass(p, Frozen)]
        keys[prefix + name] = "" if sections else default_of(field.default)
        for section in sections:
            keys |= keys_of(section, f"{prefix}{name}.")
    return keys


def default_of(value: object) -> str:
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value) if isinstance(value, int | float) else ""


def test_presets_are_on_the_configuration_page() -> None:
    row = r"^\| `(\w+)` \| ([\d,]+) M \| ([\d,]+) \|"
    rows = re.findall(row, page("docs/configuration.md"), re.M)
    assert [name for name, *_ in rows] == list(PRESETS)
    for name, millions, window in rows:
        shape = preset(name, 4096 if name == "demo" else 32768)
        assert shape.n_parameters / 1e6 == pytest.approx(int(millions.replace(",", "")), rel=0.2)
        assert shape.max_seq_len == int(window.replace(",", ""))


def test_every_module_has_a_line_and_every_line_a_module() -> None:
    files = [path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    modules = {".".join(path.with_suffix("").parts) for path in files if path.stem != "__init__"}
    named = {name for name in _MODULE_ROW.findall(page("docs/architecture.md")) if "." in name}
    assert named == modules


def test_every_decision_is_listed_in_order() -> None:
    notes = sorted(path.name for path in (ROOT / "docs/decisions").glob("0*.md"))
    assert _LINK.findall(page("docs/decisions/README.md")) == notes
    assert [int(name[:4]) for name in notes] == list(range(1, len(notes) + 1))


def test_makefile_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", page("Makefile"), re.M))
    named = {
        target
        for path in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z]+)", path.read_text("utf-8"), re.M)
    }
    assert named <= targets


def test_continuous_integration_runs_what_the_readme_names() -> None:
    assert "`make test`" in page("README.md")
    commands = [line for line in page(".ci/run").splitlines() if line.startswith("make")]
    assert [line.split()[-1] for line in commands] == ["check", "test"]
