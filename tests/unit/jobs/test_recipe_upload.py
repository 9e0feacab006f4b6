"""Datasets of this machine's files, built by a server elsewhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.exit_codes import EXIT_BY_CODE

RESULT = {"dataset": "notes@1", "train_tokens": 7, "documents": 3}
TEXTS = {"a.txt": "one story " * 50, "sub/b.txt": "another " * 150, "c.md": "# a third\n" * 9}


@pytest.fixture
def mulm(server: Any, at_server: Any) -> Any:
    """The command line, in a folder with texts, of a user who has named a server."""

    def do(run_id: str) -> None:
        server.facts.set_phase(run_id, "succeeded", result=RESULT)
        server.jobs.end(run_id)

    server.jobs.on_submit = do
    for name, text in TEXTS.items():
        path = at_server.folder / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return at_server


def recipe(mulm: Any, *sources: dict[str, Any]) -> str:
    path: Path = mulm.folder / "recipe.json"
    path.write_text(json.dumps({"name": "notes", "sources": sources}))
    return str(path)


def test_files_are_uploaded_once_and_the_same_is_the_same_run(mulm: Any, server: Any) -> None:
    path = recipe(mulm, {"path": "texts", "licence": "my own"})
    code, out, err = mulm("data", "build", path)
    assert code == 0, err
    assert out == "notes@1: 7 training tokens from 3 documents\n"
    assert "uploading" in err
    (run,) = server.facts.runs()
    assert run.kind == "prepare"
    files = {file.id: file for file in server.facts.files()}
    assert {file.name for file in files.values()} == {Path(name).name for name in TEXTS}
    sources = run.config["sources"]
    assert [(one["licence"], one["path"]) for one in sources] == [("my own", "")] * 3
    there = {one["content"]["name"]: one["content"]["sha256"] for one in sources}
    for name, text in TEXTS.items():
        assert there[Path(name).name] == hashlib.sha256(text.encode()).hexdigest()
    assert mulm.json("data", "build", path) == RESULT
    assert len(server.facts.files()) == 3
    assert len(server.facts.runs()) == 1
    assert not mulm.home.root.exists(), "nothing is made here"


def test_names_are_numbered_and_weights_shared_out_by_size(mulm: Any, server: Any) -> None:
    (mulm.folder / "texts/empty.txt").touch()
    path = recipe(
        mulm,
        {"path": "texts/**/*.txt", "name": "mine", "weight": 4.0},
        {"path": "texts/c.md", "name": "third", "weight": 1.0},
        {"path": "bundled://books", "name": "books", "weight": 2.0},
    )
    code, _, err = mulm("data", "build", path)
    assert code == 0, err
    sources = {one["name"]: one for one in server.facts.runs()[0].config["sources"]}
    assert sources["third"]["weight"] == 1.0
    assert sources["books"]["path"] == "bundled://books"
    ours = {name: one for name, one in sources.items() if name.startswith("mine")}
    assert len(ours) == 2
    weights = {one["content"]["name"]: one["weight"] for one in ours.values()}
    assert weights == pytest.approx({"a.txt": 4 * 500 / 1700, "b.txt": 4 * 1200 / 1700})


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ({"path": "nowhere"}, "not_found", "nowhere"),
        ({"path": "texts", "licence": 3}, "config_invalid", "licence"),
        ({"file": "file_none"}, "not_found", "file_none"),
        ({"path": "none", "type": "mine:Source"}, "config_invalid", "mine:Source"),
        ({"path": "empty"}, "data_invalid", "empty"),
        ({"path": "texts", "name": "n" * 63}, "config_invalid", "n" * 63),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_begun(
    mulm: Any, server: Any, source: dict[str, Any], code: str, words: str
) -> None:
    (mulm.folder / "empty").mkdir()
    (mulm.folder / "empty/a.txt").touch()
    exit_code, _, err = mulm("data", "build", recipe(mulm, source))
    assert server.facts.files() == []
    assert (exit_code, words in err) == (EXIT_BY_CODE[code], True), err
    assert server.facts.runs() == []


def test_two_sources_of_one_name_are_told_before_anything_is_sent(mulm: Any, server: Any) -> None:
    path = recipe(mulm, {"path": "texts", "name": "mine"}, {"path": "texts/c.md", "name": "mine-1"})
    code, _, err = mulm("data", "build", path)
    assert (code, "mine-1" in err) == (EXIT_BY_CODE["config_invalid"], True), err
    assert server.facts.files() == []


def test_a_source_without_a_name_keeps_its_number(mulm: Any, server: Any) -> None:
    path = recipe(mulm, {"path": "texts/**/*.txt"}, {"path": "texts/c.md"})
    assert mulm("data", "build", path)[0] == 0
    names = [one["name"] for one in server.facts.runs()[0].config["sources"]]
    assert names == ["source1-1", "source1-2", "source2"]


def test_a_file_that_was_removed_there_is_sent_again(mulm: Any, server: Any) -> None:
    path = recipe(mulm, {"path": "texts"})
    assert mulm("data", "build", path)[0] == 0
    for file in server.facts.files():
        server.facts.remove_file(file.id)
    assert mulm.json("data", "build", path) == RESULT
    assert len(server.facts.files()) == 3


def test_a_file_that_cannot_be_read_is_told(mulm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("jobs.remote_files.hash_file", gone)
    code, _, err = mulm("data", "build", recipe(mulm, {"path": "texts"}))
    assert code == EXIT_BY_CODE["data_invalid"]
    assert "Permission denied" in err
