"""A tar from a server becomes a folder of plain files, or nothing."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.packed_folder import unpack
from mulm.errors import CorruptError

FILES = {"a.json": b"{}", "b.bin": bytes(range(256)) * 20, "c-1_x.txt": b"", "d": b"x" * 512}


def tar_of(change: Callable[[tarfile.TarFile], None] = lambda _tar: None) -> bytes:
    """The tar of `FILES`, and what `change` puts behind them."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, text in FILES.items():
            add(tar, f"made/{name}", text)
        change(tar)
    return content.getvalue()


def add(tar: tarfile.TarFile, name: str, text: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type = len(text), kind
    member.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    tar.addfile(member, io.BytesIO(text))


def cut(content: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "inner" / "made"
    made.mkdir(parents=True)
    return made


@pytest.mark.parametrize("size", [1, 100, 512, 10_000, 1 << 20])
def test_files_come_out_however_they_are_cut(folder: Path, size: int) -> None:
    chunks = cut(tar_of(), size)
    assert unpack(chunks, folder) == sum(map(len, FILES.values()))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert next(chunks, None) is None, "also what stands behind the end is read"


NAMES = [
    "../x", "/etc/x", "made/../../x", "made/..", "made/.hidden", "x", "made/a/b", "made//x", "",
    "made/a\nb", "made/a\\b", "made/\u202e", "made/" + "x" * 300, "made/a.json",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_out_or_stands_twice_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(CorruptError):
        unpack(cut(tar_of(lambda tar: add(tar, name)), 512), folder)
    assert {path.name for path in folder.iterdir()} <= set(FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["made"]


KINDS = [
    tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE,
    tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_is_refused(folder: Path, kind: bytes) -> None:
    with pytest.raises(CorruptError, match="does not belong"):
        unpack(cut(tar_of(lambda tar: add(tar, "made/other", b"", kind)), 512), folder)
    assert not (folder / "other").is_symlink()
    assert not (folder / "other").exists()


@pytest.mark.parametrize("size", [0, 100, 512, 513, 1024 + 512 + 100])
def test_a_tar_without_its_end_is_refused(folder: Path, size: int) -> None:
    with pytest.raises(CorruptError, match="its end is missing"):
        unpack(cut(tar_of()[:size], 512), folder)


def test_what_is_no_tar_is_refused(folder: Path) -> None:
    with pytest.raises(CorruptError, match="no folder"):
        unpack(iter([b"GGUF" * 1000]), folder)
    assert list(folder.iterdir()) == []
