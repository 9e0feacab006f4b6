"""What SQLite's failures mean to a user: a full disk, a damaged file, a busy one.

Called by `mulm.ledger` around all that it does. Invariant: what is our own mistake (a wrong
query, a broken constraint) passes through as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mulm.errors import ConfigError, CorruptError, DeadlineError, MulmError, NoSpaceError

BUSY_TIMEOUT_S = 10.0
"""How long SQLite waits for another process before it fails."""

_PRIMARY_BITS = 0xFF


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Raise our errors in the place of SQLite's.

    Raises:
        NoSpaceError: the disk is full.
        CorruptError: the file is damaged.
        DeadlineError: another process kept it.
        ConfigError: it cannot be opened or written.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        ours = _ours(error, path)
        if ours is None:
            raise
        raise ours from None


def _ours(error: sqlite3.DatabaseError, path: Path) -> MulmError | None:
    match getattr(error, "sqlite_errorcode", 0) & _PRIMARY_BITS:
        case sqlite3.SQLITE_FULL:
            return NoSpaceError(
                f"no space left on the disk of {str(path)!r}",
                hint="free some space and run the same command again; nothing was lost",
            )
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return CorruptError(
                f"the ledger {str(path)!r} is damaged: {error}",
                hint="put a copy of it back; or move it away and run your commands again: finished"
                " steps are found in the store, and names are given anew",
            )
        case 0 if "decode to UTF-8" in str(error):  # Python's own, of a text with flipped bits
            return CorruptError(
                f"a text in the ledger {str(path)!r} is damaged", hint="restore a backup"
            )
        case sqlite3.SQLITE_BUSY:
            return DeadlineError(
                f"another process has kept the ledger {str(path)!r} for {BUSY_TIMEOUT_S:.0f} s",
                hint="run the same command again",
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
            return ConfigError(
                f"cannot write the ledger {str(path)!r}: {error}",
                hint="point MULM_HOME at a folder that you may write to",
            )
    return None
