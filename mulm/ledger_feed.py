"""The ledger's feed: everything that happens to an installation, in one order.

A part of `mulm.ledger.Ledger`; `mulm.ledger_triggers` write it. Invariants: numbers rise in the
order in which things happened; a happening is there exactly if what it tells is.
"""

from __future__ import annotations

from mulm.errors import ConflictError
from mulm.ledger_database import LedgerDatabase
from mulm.ledger_rows import loaded
from mulm.records import Happening


class FeedRows:
    """The feed in the database of a ledger."""

    _db: LedgerDatabase

    def happenings(self, after: int = 0, limit: int = 1000) -> list[Happening]:
        rows = self._db.all("SELECT * FROM feed WHERE seq>? ORDER BY seq LIMIT ?", after, limit)
        return [Happening(**{**row, "data": loaded(row["data"])}) for row in rows]

    def last_happening(self) -> int:
        rows = self._db.all("SELECT coalesce(max(seq), 0) AS seq FROM feed")
        return int(rows[0]["seq"])

    def _require_unmoved(self, since: int) -> None:
        """Within `writing`: refuse where a run, a version or an alias has moved since then."""
        moved = self._db.one(
            "SELECT subject FROM feed WHERE seq>? AND kind IN ('run', 'version', 'alias') LIMIT 1",
            since,
        )
        if moved:
            raise ConflictError(f"{moved['subject']} has moved meanwhile", hint="look at it again")
