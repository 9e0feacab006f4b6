"""Files of other machines arrive in pieces, go on where they broke, and are checked."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mulm import landing as landing_module
from mulm.errors import ConfigError, CorruptError, NoSpaceError
from mulm.landing import Landing
from mulm.origin import CHUNK_BYTES

CONTENT = bytes(range(100))
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(tmp_path / "incoming", limit_bytes=100)


def test_a_file_goes_on_where_it_broke_and_takes_its_place(
    landing: Landing, tmp_path: Path
) -> None:
    assert landing.arrived(SHA256) == 0
    assert landing.add(SHA256, 100, 0, CONTENT[:30]) == 30
    again = Landing(tmp_path / "incoming", limit_bytes=100)
    assert again.arrived(SHA256) == 30
    assert again.add(SHA256, 100, 0, CONTENT[:20]) == 30  # sent twice
    assert again.add(SHA256, 100, 60, CONTENT[60:]) == 30  # a hole is not left
    assert again.add(SHA256, 100, 30, CONTENT[30:]) == 100
    again.take(SHA256, 100, tmp_path / "place" / "file")
    assert (tmp_path / "place" / "file").read_bytes() == CONTENT
    assert again.arrived(SHA256) == 0


def test_what_is_not_what_it_says_is_thrown_away(landing: Landing, tmp_path: Path) -> None:
    landing.add(SHA256, 100, 0, CONTENT[:99] + b"?")
    with pytest.raises(CorruptError):
        landing.take(SHA256, 100, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    assert landing.arrived(SHA256) == 0
    with pytest.raises(CorruptError):  # nothing has come
        landing.take(SHA256, 100, tmp_path / "file")


@pytest.mark.parametrize(
    ("size_bytes", "start", "piece"),
    [(101, 0, b"x"), (100, -1, b"x"), (100, 99, b"xy"), (100, 0, bytes(CHUNK_BYTES + 1))],
)
def test_what_is_too_large_is_refused(
    landing: Landing, tmp_path: Path, size_bytes: int, start: int, piece: bytes
) -> None:
    with pytest.raises(ConfigError):
        landing.add(SHA256, size_bytes, start, piece)
    assert not (tmp_path / "incoming").exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "0" * 63, "0" * 64 + "/x"])
def test_only_a_hash_is_a_name(landing: Landing, name: str) -> None:
    with pytest.raises(ConfigError):
        landing.add(name, 1, 0, b"x")
    with pytest.raises(ConfigError):
        landing.arrived(name)


def test_a_full_disk_is_said_before_the_first_byte(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=99))
    with pytest.raises(NoSpaceError):
        landing.add(SHA256, 100, 0, CONTENT)
    assert landing.arrived(SHA256) == 0


def test_a_disk_that_fills_meanwhile_is_named(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(NoSpaceError):
        landing.add(SHA256, 100, 0, CONTENT)
