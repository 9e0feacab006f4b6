"""The schema of the ledger's database, and how it is opened.

Called by `mulm.ledger_database`. Invariants: an older database gets the tables and columns that it
lacks in one transaction, so a process killed in its midst leaves the database as it was; one that a
newer program wrote is refused, unchanged; what is committed survives a power cut.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from mulm.errors import ConfigError
from mulm.ledger_triggers import FEED_SCHEMA
from mulm.sqlite_errors import BUSY_TIMEOUT_S

VERSION = 2
"""Stands in the database (`user_version`) and goes up with every change of the schema."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS versions (
    kind TEXT, name TEXT, number INTEGER, manifest_id TEXT NOT NULL, created_s REAL NOT NULL,
    PRIMARY KEY (kind, name, number), UNIQUE (kind, name, manifest_id));
CREATE TABLE IF NOT EXISTS removed (
    kind TEXT, name TEXT, number INTEGER, manifest_id TEXT NOT NULL, removed_s REAL NOT NULL,
    PRIMARY KEY (kind, name, number));
CREATE TABLE IF NOT EXISTS aliases (
    kind TEXT, name TEXT, alias TEXT, number INTEGER NOT NULL, PRIMARY KEY (kind, name, alias));
CREATE TABLE IF NOT EXISTS alias_history (
    kind TEXT, name TEXT, alias TEXT, number INTEGER NOT NULL, set_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, config TEXT NOT NULL, phase TEXT NOT NULL,
    created_s REAL NOT NULL, updated_s REAL NOT NULL, result TEXT, error TEXT);
CREATE TABLE IF NOT EXISTS events (
    run_id TEXT, seq INTEGER, time_s REAL NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL,
    PRIMARY KEY (run_id, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deployments (
    name TEXT, revision INTEGER, spec TEXT, set_s REAL NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (name, revision));
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, digest TEXT UNIQUE NOT NULL, name TEXT NOT NULL, created_s REAL NOT NULL,
    scope TEXT NOT NULL DEFAULT 'all', models TEXT, expires_s REAL, limits TEXT);
CREATE TABLE IF NOT EXISTS retired_secrets (
    digest TEXT PRIMARY KEY, key_id TEXT NOT NULL, until_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS usage (
    key_id TEXT, model TEXT, start_s INTEGER, requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    PRIMARY KEY (start_s, key_id, model)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, time_s REAL NOT NULL, who TEXT NOT NULL,
    request_id TEXT NOT NULL, method TEXT NOT NULL, route TEXT NOT NULL, subject TEXT NOT NULL,
    outcome TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS audit_who ON audit (who, seq);
CREATE TRIGGER IF NOT EXISTS audit_stays BEFORE DELETE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;
CREATE TRIGGER IF NOT EXISTS audit_is_kept BEFORE UPDATE ON audit
    BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;
CREATE TABLE IF NOT EXISTS usage_totals (key_id TEXT PRIMARY KEY, tokens INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS usage_writers (
    writer TEXT PRIMARY KEY, seq INTEGER NOT NULL, seen_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, purpose TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL, created_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    key_id TEXT, key TEXT, digest TEXT NOT NULL, claim TEXT NOT NULL, lease_s REAL NOT NULL,
    until_s REAL NOT NULL, status INTEGER, headers TEXT NOT NULL, body TEXT,
    PRIMARY KEY (key_id, key));
CREATE TABLE IF NOT EXISTS feedback (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, key_id TEXT NOT NULL,
    digest TEXT NOT NULL, model TEXT NOT NULL, model_id TEXT, answer_id TEXT,
    verdict TEXT NOT NULL, created_s REAL NOT NULL, changed_s REAL NOT NULL,
    asked_start TEXT NOT NULL, answer_start TEXT NOT NULL, comment TEXT NOT NULL,
    answer TEXT NOT NULL, messages TEXT NOT NULL, UNIQUE (key_id, digest));
CREATE INDEX IF NOT EXISTS feedback_verdict ON feedback (verdict);
CREATE INDEX IF NOT EXISTS feedback_model ON feedback (model);
CREATE INDEX IF NOT EXISTS feedback_model_verdict ON feedback (model, verdict);
CREATE INDEX IF NOT EXISTS feedback_model_id ON feedback (model_id);
CREATE INDEX IF NOT EXISTS feedback_model_id_verdict ON feedback (model_id, verdict);
"""
_KEY_COLUMNS = {
    "scope": "TEXT NOT NULL DEFAULT 'all'",
    "models": "TEXT",
    "expires_s": "REAL",
    "limits": "TEXT",
}
"""For databases from before keys had them."""


def open_database(path: Path) -> sqlite3.Connection:
    """A connection that threads may share; the tables are there.

    Raises:
        ConfigError: a newer version of the program has written it.
    """
    database = sqlite3.connect(path, check_same_thread=False, timeout=BUSY_TIMEOUT_S)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        found = _version_of(database)
        if found > VERSION:
            raise ConfigError(
                f"the ledger {str(path)!r} was written by a newer version of mulm",
                hint="install that version again, or restore a backup of this one",
            )
        if found < VERSION:
            with database:
                database.execute("BEGIN IMMEDIATE")  # two processes may open it at once
                for statement in migration(database):
                    database.execute(statement)
    except BaseException:
        database.close()
        raise
    return database


def migration(database: sqlite3.Connection) -> Iterator[str]:
    """The statements that bring a database of whatever older version to this one."""
    yield from _statements(_SCHEMA + FEED_SCHEMA)
    known = {row[1] for row in database.execute("PRAGMA table_info(keys)")}
    for name in sorted(_KEY_COLUMNS.keys() - known):
        yield f"ALTER TABLE keys ADD COLUMN {name} {_KEY_COLUMNS[name]}"
    yield f"PRAGMA user_version = {VERSION}"


def _version_of(database: sqlite3.Connection) -> int:
    (found,) = database.execute("PRAGMA user_version").fetchone()
    return int(found)


def _statements(script: str) -> Iterator[str]:
    """One by one, since `executescript` would end the transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    assert not statement.strip(), statement
