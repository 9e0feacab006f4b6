"""The pages tell the truth: links lead somewhere, tables agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.exit_codes import EXIT_BY_CODE
from mulm.errors import error_classes
from serve_app.errors import STATUS_BY_CODE

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
    assert re.findall(r"TODO|FIXME|XXX|TBD", path.read_text("utf-8")) == []


def test_errors_page_agrees_with_the_tables() -> None:
    rows = [(code, int(exit_), int(status)) for code, exit_, status in
            _ERROR_ROW.findall(page("docs/errors.md"))]  # fmt: skip
    codes = sorted((cls.code for cls in error_classes()), key=EXIT_BY_CODE.__getitem__)
    assert rows == [(code, EXIT_BY_CODE[code], STATUS_BY_CODE[code]) for code in codes]


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
