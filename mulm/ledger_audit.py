"""The audit log in the ledger's database: who asked for which change.

Part of `mulm.ledger.Ledger`. Invariant: rows are added and never changed or removed; the database
itself refuses that.
"""

from __future__ import annotations

from collections.abc import Callable

from mulm.accounts import AuditRow
from mulm.ledger_database import LedgerDatabase


class AuditRows:
    """The methods of `Facts` about the audit log."""

    _db: LedgerDatabase
    _clock: Callable[[], float]

    def add_audit(
        self, who: str, request_id: str, method: str, route: str, subject: str, outcome: str
    ) -> None:
        with self._db.writing():
            self._db.execute(
                "INSERT INTO audit (time_s, who, request_id, method, route, subject, outcome)"
                " VALUES (?,?,?,?,?,?,?)",
                (self._clock(), who, request_id, method, route, subject, outcome),
            )

    def audit(
        self, who: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[AuditRow]:
        rows = self._db.all(
            "SELECT * FROM audit WHERE (?1 IS NULL OR who=?1) AND (?2 IS NULL OR seq<?2)"
            " ORDER BY seq DESC LIMIT ?3",
            who, before, limit,
        )  # fmt: skip
        return [AuditRow(**row) for row in rows]
