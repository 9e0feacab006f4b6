from __future__ import annotations

import gzip
import unicodedata
from pathlib import Path

import pytest

from mulm.data.source_spec import SourceSpec
from mulm.data.sources.auto import AutoSource
from mulm.data.sources.text import TextSource
from mulm.errors import NotFoundError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b" / "c.md").write_text("c")
    (tmp_path / "b" / "d.TXT.gz").write_bytes(gzip.compress(b"d"))
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "b" / "e.jsonl").write_text('{"text": "e"}')
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hidden.txt").write_text("hidden")
    (tmp_path / "._a.txt").write_text("hidden")
    return tmp_path


def names(path: str) -> list[str]:
    return [file.name for file in TextSource().files(SourceSpec(path=path))]


def test_folder_file_and_glob(folder: Path) -> None:
    assert names(str(folder)) == ["a.txt", "b/c.md", "b/d.TXT.gz"]
    assert names(str(folder / "a.txt")) == ["a.txt"]
    assert names(f"{folder}/**/*.md") == ["b/c.md"]
    assert names(f"{folder}/b/*") == ["c.md", "d.TXT.gz", "e.jsonl"]
    assert names(f"{folder}/*.jpg") == ["photo.jpg"]


def test_a_folder_of_everything_is_read_file_by_file(folder: Path) -> None:
    spec, source = SourceSpec(path=str(folder)), AutoSource()
    found = {f.name: [d.text for d in source.read(spec, f, p)]
             for f in source.files(spec) for p in source.parts(spec, f)}  # fmt: skip
    assert found == {"a.txt": ["a"], "b/c.md": ["c"], "b/d.TXT.gz": ["d"], "b/e.jsonl": ["e"]}


def test_names_are_the_same_on_every_file_system(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "café.txt")).write_text("a")
    assert names(str(tmp_path)) == ["café.txt"]


@pytest.mark.parametrize("path", ["missing.txt", "missing/", "missing/*.txt"])
def test_missing_files(tmp_path: Path, path: str) -> None:
    with pytest.raises(NotFoundError, match="missing"):
        TextSource().files(SourceSpec(path=f"{tmp_path}/{path}"))


def test_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no files of this type in the folder") as caught:
        TextSource().files(SourceSpec(path=str(tmp_path)))
    assert ".txt" in caught.value.hint
