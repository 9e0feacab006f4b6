from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mulm import ledger_schema
from mulm.accounts import KeyLimits
from mulm.errors import ConfigError, CorruptError, DeadlineError, NoSpaceError
from mulm.ledger import Ledger
from mulm.sqlite_errors import named_errors


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(CorruptError, match="is damaged") as caught:
        Ledger(path)
    assert "move it away" in caught.value.hint


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.create_run("run_1", "train", {})
        ledger.append_events("run_1", [("log", {"text": "x" * 1000}) for _ in range(100)])
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(CorruptError, match="is damaged"), Ledger(path) as ledger:
        ledger.events("run_1")


@pytest.mark.parametrize(
    ("table", "column", "read"),
    [
        ("runs", "config", lambda ledger: ledger.runs()),
        ("events", "data", lambda ledger: ledger.events("run_1")),
        ("feed", "data", lambda ledger: ledger.happenings()),
        ("deployments", "spec", lambda ledger: ledger.deployments()),
        ("keys", "models", lambda ledger: ledger.valid_keys()),
        ("keys", "limits", lambda ledger: ledger.valid_keys()),
    ],
)
def test_a_flipped_byte_in_a_row(
    table: str, column: str, read: Callable[[Ledger], object], tmp_path: Path
) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.create_run("run_1", "train", {})
        ledger.append_events("run_1", [("log", {})])
        ledger.set_deployment("a", {"model": "m@1"}, "serve m@1")
        limits = KeyLimits(requests_per_minute=1)
        ledger.add_key("key_1", "d", "friend", "inference", ("m",), None, limits)
        read(ledger)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE {table} SET {column}='{{' WHERE {column} IS NOT NULL")
    with Ledger(path) as ledger, pytest.raises(CorruptError, match="a row of the ledger"):
        read(ledger)


def test_a_full_disk(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.create_run("run_1", "train", {})
        [[n_pages]] = ledger._db.execute("PRAGMA page_count")
        ledger._db.execute(f"PRAGMA max_page_count={n_pages}")
        with pytest.raises(NoSpaceError, match="no space left"):
            ledger.append_events("run_1", [("log", {"text": "x" * 100_000})])
        assert ledger.events("run_1") == []


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        Ledger(tmp_path)


def test_a_busy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.sqlite"
    monkeypatch.setattr(ledger_schema, "BUSY_TIMEOUT_S", 0.01)
    with Ledger(path) as ledger, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DeadlineError, match="another process"):
            ledger.create_run("run_1", "train", {})


def test_our_own_mistakes_pass_through(tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "x")) as database,
        pytest.raises(sqlite3.OperationalError),
        named_errors(tmp_path),
    ):
        database.execute("SELECT nonsense")
