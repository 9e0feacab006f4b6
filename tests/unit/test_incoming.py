from __future__ import annotations

import errno
from hashlib import sha256
from pathlib import Path

import pytest

from mulm.errors import NoSpaceError
from mulm.incoming import IncomingFile
from mulm.store import Store


def test_what_comes_in_pieces_is_a_blob(tmp_path: Path) -> None:
    store = Store(tmp_path)
    incoming = store.begin()
    for piece in (b"one ", b"", bytearray(b"two")):
        incoming.write(piece)
    kept = store.keep("words", incoming)
    incoming.discard()
    assert (kept.sha256, kept.size_bytes) == (sha256(b"one two").hexdigest(), 7)
    assert store.read(kept) == b"one two"
    assert store.path(kept).stat().st_mode & 0o777 == 0o444
    assert list((tmp_path / "incoming").iterdir()) == []


def test_what_is_not_kept_is_gone(tmp_path: Path) -> None:
    incoming = IncomingFile(tmp_path / "new")
    incoming.write(b"half")
    assert len(list((tmp_path / "new").iterdir())) == 1
    incoming.discard()
    incoming.discard()
    assert list((tmp_path / "new").iterdir()) == []


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    incoming = IncomingFile(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    incoming.write(b"x")
    monkeypatch.setattr("mulm.incoming.os.fsync", full)
    with pytest.raises(NoSpaceError):
        incoming.move_to(tmp_path / "blob")
    incoming.discard()
    assert list(tmp_path.iterdir()) == []
