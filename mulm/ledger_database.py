"""The ledger's database: one connection that threads share, its transactions, rows as mappings.

Owned by `mulm.ledger`. Invariants: a transaction is alone from its first reading, also where
another process writes; what SQLite says is told in our words.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mulm.ledger_schema import open_database
from mulm.sqlite_errors import named_errors

Row = dict[str, Any]


class LedgerDatabase:
    """A SQLite file with the ledger's tables."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        with named_errors(path):
            self._connection = open_database(path)

    def close(self) -> None:
        """Release the file, when the query under way is done; others then fail."""
        with self._lock:
            self._connection.close()

    def execute(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Within `writing`: change something."""
        return self._connection.execute(statement, values)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Several queries that see the same."""
        with self._lock, named_errors(self._path):
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction, alone from its first reading: another process may write too.

        Inside of another one of the same thread it is a part of that.
        """
        with self.reading():
            if self._connection.in_transaction:
                yield
                return
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                yield

    def all(self, query: str, *values: object) -> list[Row]:
        """The rows of one query by itself."""
        with self.reading():
            return self._rows(query, values)

    def all_inside(self, query: str, *values: object) -> list[Row]:
        """Within `reading` or `writing`: the rows."""
        return self._rows(query, values)

    def one(self, query: str, *values: object) -> Row | None:
        """Within `reading` or `writing`: the first row, if there is any."""
        rows = self._rows(query, values)
        return rows[0] if rows else None

    def _rows(self, query: str, values: tuple[object, ...]) -> list[Row]:
        with closing(self.execute(query, values)) as cursor:
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]
