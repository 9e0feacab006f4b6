from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mulm.atomic import atomic_file, atomic_folder, make_folder, write_atomic
from mulm.errors import ConfigError, NoSpaceError


def test_writes_with_mode(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, b"content", mode=0o600)
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["file"]


def test_an_error_inside_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"half" * (1 // 0))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(number, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpaceError) as caught:
        write_atomic(path, b"new")
    assert caught.value.hint
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_every_new_folder_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    write_atomic(tmp_path / "a" / "b" / "file", b"")
    levels = [tmp_path, tmp_path / "a", tmp_path / "a" / "b" / "file", tmp_path / "a" / "b"]
    assert synced == [level.stat().st_ino for level in levels]
    synced.clear()
    make_folder(tmp_path / "a" / "b")
    assert synced == []


def test_a_disk_too_full_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, **_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(NoSpaceError):
        write_atomic(tmp_path / "a" / "file", b"")
    with pytest.raises(NoSpaceError):
        make_folder(tmp_path / "a")


def test_other_errors_pass_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        write_atomic(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["below/file", "below/deep/file", "x" * 250, "x" * 300])
def test_a_path_that_can_be_no_file_is_named(tmp_path: Path, name: str) -> None:
    write_atomic(tmp_path / "below", b"a file")
    with pytest.raises(ConfigError, match=name) as caught:
        write_atomic(tmp_path / name, b"")
    assert caught.value.hint
    with pytest.raises(ConfigError, match=name), atomic_folder(tmp_path / name):
        pass
    assert os.listdir(tmp_path) == ["below"]


def test_a_file_over_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="folder"):
        write_atomic(tmp_path / "folder", b"")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOENT])
def test_a_read_only_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match=r"file.*refused"):
        write_atomic(tmp_path / "file", b"")
    with pytest.raises(ConfigError, match=r"out.*refused"), atomic_folder(tmp_path / "out"):
        pass


def test_what_the_writer_meets_is_not_renamed(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_file(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "of another file")
    with pytest.raises(PermissionError), atomic_folder(tmp_path / "folder"):
        raise PermissionError(errno.EACCES, "of another file")
    assert os.listdir(tmp_path) == []
