"""The ledger's rows of answers to requests that carry an idempotency key.

Part of `mulm.ledger.Ledger`. Invariants: of requests with one key one at a time is worked on; what
is made under a claim is noted beside it in one transaction (`note_made`), so that whoever takes
over from one that was killed knows whether it was made; what was answered is kept for a day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from mulm.errors import DeadlineError
from mulm.ledger_database import LedgerDatabase, Row
from mulm.ledger_rows import loaded
from mulm.records import ANSWERS_KEPT_S, Claim, KeptAnswer


class AnswerRows:
    """What `Facts` says of answers. While one is worked on, `body` holds what was made."""

    _db: LedgerDatabase
    _clock: Callable[[], float]

    def claim_answer(self, claim: Claim, digest: str, lease_s: float) -> KeptAnswer | None:
        now_s = self._clock()
        with self._db.writing():
            self._db.execute("DELETE FROM answers WHERE until_s<=?", (now_s,))
            found = self._db.one(
                "SELECT * FROM answers WHERE key_id=? AND key=?", claim.key_id, claim.key
            )
            if found is not None and not _may_work(found, claim, digest, now_s, lease_s):
                return _kept(found)
            made = found["body"] if found else None
            row = (claim.key_id, claim.key, digest, claim.mark, now_s + lease_s)
            self._db.execute(
                "INSERT OR REPLACE INTO answers VALUES (?,?,?,?,?,?,NULL,'{}',?)",
                (*row, now_s + ANSWERS_KEPT_S, made),
            )
        return KeptAnswer(digest, None, {}, None, made, is_mine=True) if made else None

    def keep_answer(
        self, claim: Claim, status: int, headers: Mapping[str, str], body: str | None
    ) -> None:
        row = (claim.key_id, claim.key, claim.mark)
        with self._db.writing():
            kept = self._db.execute(
                "UPDATE answers SET status=?, headers=?, body=?"
                " WHERE key_id=? AND key=? AND claim=?",
                (status, json.dumps(dict(headers)), body, *row),
            )
            _require_held(kept.rowcount)

    def drop_claim(self, claim: Claim) -> None:
        row = (claim.key_id, claim.key, claim.mark)
        with self._db.writing():
            self._db.execute(
                "DELETE FROM answers WHERE key_id=? AND key=? AND claim=?"
                " AND status IS NULL AND body IS NULL",
                row,
            )
            self._db.execute(
                "UPDATE answers SET lease_s=0 WHERE key_id=? AND key=? AND claim=?", row
            )


def was_made(db: LedgerDatabase, claim: Claim | None, subject: str) -> bool:
    """Within `writing`: whether this was made under a claim by a call that was cut off behind it.

    Raises:
        DeadlineError: the claim has passed to another one, so nothing may be made under it.
    """
    if claim is None:
        return False
    before = db.one(
        "SELECT body FROM answers WHERE key_id=? AND key=? AND claim=? AND status IS NULL",
        claim.key_id, claim.key, claim.mark,
    )  # fmt: skip
    _require_held(before is not None)
    return before == {"body": subject}


def note_made(db: LedgerDatabase, claim: Claim | None, subject: str) -> None:
    """Within `writing`: what is made in this very transaction is made under a claim.

    Raises as `was_made`.
    """
    if claim is None:
        return
    was_made(db, claim, subject)
    db.execute(
        "UPDATE answers SET body=? WHERE key_id=? AND key=? AND claim=?",
        (subject, claim.key_id, claim.key, claim.mark),
    )


def _require_held(is_held: object) -> None:
    if not is_held:
        raise DeadlineError(
            "this took so long that another request with its idempotency key has taken over",
            hint="send it again with the same key: it gets the answer of the other one",
        )


def _may_work(row: Row, claim: Claim, digest: str, now_s: float, lease_s: float) -> bool:
    """Whether a claim holds the work on a request, or its holder counts as killed."""
    # A claim from further ahead than any is made was made before the clock was set back.
    is_from_ahead = row["until_s"] > now_s + ANSWERS_KEPT_S + lease_s
    has_lapsed = row["lease_s"] <= now_s or is_from_ahead
    is_free = has_lapsed and (row["digest"] == digest or row["body"] is None)
    return row["status"] is None and (row["claim"] == claim.mark or is_free)


def _kept(row: Row) -> KeptAnswer:
    if row["status"] is None:
        return KeptAnswer(row["digest"], None, {}, None, row["body"])
    return KeptAnswer(row["digest"], row["status"], loaded(row["headers"]), row["body"])
