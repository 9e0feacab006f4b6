"""What keys have used, in the ledger's database: a row for each key, model and hour.

Part of `mulm.ledger.Ledger`. Invariants: a batch of a writer counts once, however often it comes;
what a revoked key has used stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mulm.accounts import HOUR_S, UsageRow
from mulm.ledger_database import LedgerDatabase

_WRITER_KEPT_S = 7 * 86400.0
"""A writer that was silent for so long sends no batch again."""


class UsageRows:
    """The methods of `Facts` about usage."""

    _db: LedgerDatabase
    _clock: Callable[[], float]

    def add_usage(self, writer: str, seq: int, rows: Sequence[UsageRow]) -> dict[str, int]:
        with self._db.writing():
            if rows and not self._is_known(writer, seq):
                for row in rows:
                    self._add(row)
            return {
                row["key_id"]: row["tokens"]
                for row in self._db.all_inside("SELECT key_id, tokens FROM usage_totals")
            }

    def usage(
        self,
        key_id: str | None = None,
        model: str | None = None,
        from_s: int = 0,
        to_s: int | None = None,
        bucket_s: int = HOUR_S,
    ) -> list[UsageRow]:
        rows = self._db.all(
            "SELECT key_id, model, start_s - start_s % ?5 AS start_s, sum(requests) AS requests,"
            " sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens FROM usage"
            " WHERE start_s >= ?3 - ?3 % ?5 AND (?4 IS NULL OR start_s < ?4)"
            " AND (?1 IS NULL OR key_id=?1) AND (?2 IS NULL OR model=?2)"
            " GROUP BY 3, key_id, model ORDER BY 3, key_id, model",
            key_id, model, from_s, to_s, bucket_s,
        )  # fmt: skip
        return [UsageRow(**row) for row in rows]

    def _is_known(self, writer: str, seq: int) -> bool:
        """Whether the batch was noted before; from now on it was."""
        last = self._db.one("SELECT seq FROM usage_writers WHERE writer=?", writer)
        if last is not None and last["seq"] >= seq:
            return True
        now_s = self._clock()
        if last is None:
            self._db.execute("DELETE FROM usage_writers WHERE seen_s<?", (now_s - _WRITER_KEPT_S,))
        self._db.execute(
            "INSERT OR REPLACE INTO usage_writers VALUES (?,?,?)", (writer, seq, now_s)
        )
        return False

    def _add(self, row: UsageRow) -> None:
        self._db.execute(
            "INSERT INTO usage VALUES (?,?,?,?,?,?) ON CONFLICT DO UPDATE SET"
            " requests = requests + excluded.requests,"
            " input_tokens = input_tokens + excluded.input_tokens,"
            " output_tokens = output_tokens + excluded.output_tokens",
            (
                row.key_id, row.model, row.start_s, row.requests, row.input_tokens,
                row.output_tokens,
            ),
        )  # fmt: skip
        self._db.execute(
            "INSERT INTO usage_totals VALUES (?,?) ON CONFLICT DO UPDATE SET"
            " tokens = tokens + excluded.tokens",
            (row.key_id, row.tokens),
        )
