from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mulm.data.sources.base import UnreadableError
from mulm.data.sources.registry import SOURCES, source_of
from mulm.data.sources.text import TextSource
from mulm.errors import NotFoundError, UnknownNameError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b" / "c.md").write_text("c")
    (tmp_path / "b" / "d.txt.gz").write_bytes(gzip.compress(b"d"))
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    return tmp_path


def names(path: str) -> list[str]:
    return [file.name for file in TextSource().files(path)]


def test_folder_file_and_glob(folder: Path) -> None:
    assert names(str(folder)) == ["a.txt", "b/c.md", "b/d.txt.gz"]
    assert names(str(folder / "a.txt")) == ["a.txt"]
    assert names(f"{folder}/**/*.md") == ["b/c.md"]
    assert names(f"{folder}/b/*") == ["c.md", "d.txt.gz"]
    assert names(f"{folder}/*.jpg") == ["photo.jpg"]


def test_read(folder: Path) -> None:
    source = TextSource()
    contents = [c for file in source.files(str(folder)) for c in source.read(file)]
    assert contents == [b"a", b"c", b"d"]


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"text" * 99)[:-9]])
def test_damaged_gzip_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.txt.gz"
    path.write_bytes(content)
    [file] = TextSource().files(str(path))
    if not content:  # an empty file is an empty gzip stream
        assert list(TextSource().read(file)) == [b""]
        return
    with pytest.raises(UnreadableError):
        list(TextSource().read(file))


@pytest.mark.parametrize("path", ["missing.txt", "missing/", "missing/*.txt"])
def test_missing_files(tmp_path: Path, path: str) -> None:
    with pytest.raises(NotFoundError, match="missing"):
        TextSource().files(f"{tmp_path}/{path}")


def test_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no text files in the folder"):
        TextSource().files(str(tmp_path))


def test_unknown_type_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'txt'") as caught:
        source_of("txt")
    assert "'text'" in caught.value.hint
    assert all(source_of(name).files for name in SOURCES)
