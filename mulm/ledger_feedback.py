"""The ledger's rows of feedback: what people thought of answers, to learn from later.

Part of `mulm.ledger.Ledger`. Invariants: of a key and an answer there is one row, with the key's
latest verdict; a row holds all that a preference dataset needs, whatever becomes of model and key;
the order of rows never changes, so that reading page by page misses and repeats none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from mulm.config import canonical_json
from mulm.errors import NotFoundError
from mulm.ledger_database import LedgerDatabase
from mulm.ledger_rows import loaded
from mulm.records import Answered, Feedback, Thumb

_SHOWN_CHARS = 64


class FeedbackRows:
    """What `Facts` says of feedback."""

    _db: LedgerDatabase
    _clock: Callable[[], float]

    def give_feedback(
        self, feedback_id: str, key_id: str, answered: Answered, verdict: Thumb, comment: str = ""
    ) -> Feedback:
        now_s, digest = self._clock(), _digest(answered)
        messages = json.dumps(answered.messages, ensure_ascii=False)
        with self._db.writing():
            self._db.execute(
                "INSERT INTO feedback (id, key_id, digest, model, model_id, answer_id, messages,"
                " answer, verdict, comment, created_s, changed_s) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"
                " ON CONFLICT (key_id, digest) DO UPDATE SET verdict=excluded.verdict,"
                " comment=excluded.comment, changed_s=excluded.changed_s",
                (
                    feedback_id, key_id, digest, answered.model, answered.model_id,
                    answered.answer_id, messages, answered.answer, verdict, comment, now_s, now_s,
                ),
            )  # fmt: skip
            row = self._db.one("SELECT * FROM feedback WHERE key_id=? AND digest=?", key_id, digest)
        assert row is not None
        return _feedback_of(row)

    def one_feedback(self, feedback_id: str) -> Feedback:
        return _feedback_of(self._row(feedback_id))

    def feedback(
        self,
        model: str | None = None,
        verdict: Thumb | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[Feedback]:
        before = None if after is None else self._row(after)["seq"]
        rows = self._db.all(
            "SELECT * FROM feedback WHERE (?1 IS NULL OR model=?1 OR model_id=?1)"
            " AND (?2 IS NULL OR verdict=?2) AND (?3 IS NULL OR seq<?3)"
            " ORDER BY seq DESC LIMIT ?4",
            model, verdict, before, -1 if limit is None else limit,
        )  # fmt: skip
        return [_feedback_of(row) for row in rows]

    def _row(self, feedback_id: str) -> dict[str, Any]:
        rows = self._db.all("SELECT * FROM feedback WHERE id=?", feedback_id)
        if not rows:
            raise NotFoundError(
                f"no feedback {feedback_id[:_SHOWN_CHARS]!r}",
                hint="`GET /api/v1/feedback` lists it",
            )
        return rows[0]


def _digest(answered: Answered) -> str:
    return hashlib.sha256(canonical_json(asdict(answered))).hexdigest()


def _feedback_of(row: Mapping[str, Any]) -> Feedback:
    answered = Answered(
        model=row["model"],
        messages=tuple(loaded(row["messages"])),
        answer=row["answer"],
        model_id=row["model_id"],
        answer_id=row["answer_id"],
    )
    return Feedback(
        id=row["id"],
        key_id=row["key_id"],
        answered=answered,
        verdict=row["verdict"],
        comment=row["comment"],
        created_s=row["created_s"],
        changed_s=row["changed_s"],
    )
