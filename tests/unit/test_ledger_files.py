from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from mulm.errors import NotFoundError
from mulm.ledger import Ledger

SHA = "a" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    times = count(1000)
    with Ledger(tmp_path / "ledger.sqlite", clock=lambda: next(times) // 2) as ledger:
        yield ledger


def ids(found: list) -> list[str]:
    return [file.id for file in found]


def test_the_life_of_a_file(ledger: Ledger) -> None:
    name = "../\0\u202e" + "n" * 10_000
    made = ledger.add_file("file_1", name, "fine-tune", 2**40, SHA)
    assert ledger.file("file_1") == made
    assert (made.name, made.size_bytes, made.sha256) == (name, 2**40, SHA)
    assert ledger.add_file("file_1", "other", "batch", 1, "b" * 64) == made, "said twice"
    assert ledger.has_file(name, SHA)
    assert not ledger.has_file(name, "b" * 64)
    ledger.remove_file("file_1")
    for gone in (ledger.file, ledger.remove_file):
        with pytest.raises(NotFoundError):
            gone("file_1")
    assert not ledger.has_file(name, SHA)


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_pages_hold_each_file_once_also_of_one_moment(
    ledger: Ledger, size: int, newest_first: bool
) -> None:
    for number in range(7):
        ledger.add_file(f"file_{number}", "x", "batch" if number % 3 else "evals", 1, SHA)
    whole = ids(ledger.files(newest_first=newest_first))
    assert sorted(whole) == [f"file_{n}" for n in range(7)]
    times = [ledger.file(file_id).created_s for file_id in whole]
    assert times == sorted(times, reverse=newest_first)
    found: list[str] = []
    while page := ledger.files(None, found[-1] if found else None, size, newest_first):
        found += ids(page)
    assert found == whole
    assert sorted(ids(ledger.files("evals"))) == ["file_0", "file_3", "file_6"]
    with pytest.raises(NotFoundError):
        ledger.files(after="file_none")


def test_a_database_from_before_files_opens(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.create_run("run_1", "train", {})
    with sqlite3.connect(path) as old:
        old.execute("DROP TABLE files")
        old.execute("PRAGMA user_version = 0")
    old.close()
    with Ledger(path) as ledger:
        assert ledger.files() == []
        ledger.add_file("file_1", "a", "batch", 1, SHA)
        assert ids(ledger.files()) == ["file_1"]
        assert ledger.run("run_1").kind == "train"
