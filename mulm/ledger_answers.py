"""The ledger's rows of answers to requests that carry an idempotency key.

Part of `mulm.ledger.Ledger`. Invariants: of requests with one key one at a time is worked on; what
was answered is kept for a day; a claim whose work was killed ends by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from mulm.ledger_database import LedgerDatabase
from mulm.ledger_rows import loaded
from mulm.records import ANSWERS_KEPT_S, KeptAnswer


class AnswerRows:
    """What `Facts` says of answers."""

    _db: LedgerDatabase
    _clock: Callable[[], float]

    def claim_answer(
        self, key_id: str, key: str, digest: str, claim: str, lease_s: float
    ) -> KeptAnswer | None:
        now_s = self._clock()
        with self._db.writing():
            # A claim from further ahead than any is made was made before the clock was set back.
            self._db.execute(
                "DELETE FROM answers WHERE until_s<=?"
                " OR (status IS NULL AND (lease_s<=? OR until_s>?))",
                (now_s, now_s, now_s + ANSWERS_KEPT_S + lease_s),
            )
            found = self._db.one("SELECT * FROM answers WHERE key_id=? AND key=?", key_id, key)
            if found and found["claim"] != claim:
                headers = loaded(found["headers"])
                return KeptAnswer(found["digest"], found["status"], headers, found["body"])
            row = (key_id, key, digest, claim, now_s + lease_s, now_s + ANSWERS_KEPT_S)
            self._db.execute(
                "INSERT OR REPLACE INTO answers VALUES (?,?,?,?,?,?,NULL,'{}',NULL)", row
            )
        return None

    def keep_answer(
        self,
        key_id: str,
        key: str,
        claim: str,
        status: int,
        headers: Mapping[str, str],
        body: str | None,
    ) -> None:
        with self._db.writing():
            self._db.execute(
                "UPDATE answers SET status=?, headers=?, body=?"
                " WHERE key_id=? AND key=? AND claim=?",
                (status, json.dumps(dict(headers)), body, key_id, key, claim),
            )

    def drop_claim(self, key_id: str, key: str, claim: str) -> None:
        with self._db.writing():
            self._db.execute(
                "DELETE FROM answers WHERE key_id=? AND key=? AND claim=? AND status IS NULL",
                (key_id, key, claim),
            )
