"""The ledger's rows of feedback: what people thought of answers, to learn from later.

Part of `mulm.ledger.Ledger`. Invariants: of a key and an answer there is one row, with the key's
latest verdict; a row holds all that a preference dataset needs, whatever becomes of model and key;
the order of rows never changes, so that reading page by page misses and repeats none; a list reads
no conversation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

from mulm.config import canonical_json
from mulm.errors import NotFoundError, QuotaError
from mulm.ledger_database import LedgerDatabase, Row
from mulm.ledger_rows import loaded
from mulm.records import Answered, Feedback, FeedbackLine, Thumb

MAX_ROWS_PER_KEY = 10_000
"""So many answers may one key judge, until some of its rows are removed."""
START_CHARS = 160
"""Of a question and an answer, in a list."""

_SHOWN_CHARS = 64
_LINE = ", ".join(column.name for column in fields(FeedbackLine))


class FeedbackRows:
    """What `FeedbackFacts` says."""

    _db: LedgerDatabase
    _clock: Callable[[], float]

    def give_feedback(
        self, feedback_id: str, key_id: str, answered: Answered, verdict: Thumb, comment: str = ""
    ) -> Feedback:
        digest = _digest(answered)
        with self._db.writing():
            known = self._db.one(
                "SELECT id FROM feedback WHERE key_id=? AND digest=?", key_id, digest
            )
            if known:
                feedback_id = known["id"]
                self._db.execute(
                    "UPDATE feedback SET verdict=?, comment=?, changed_s=? WHERE id=?",
                    (verdict, comment, self._clock(), feedback_id),
                )
            else:
                self._require_room(key_id)
                row = _row_of(answered) | {
                    "id": feedback_id, "key_id": key_id, "digest": digest, "verdict": verdict,
                    "comment": comment, "created_s": (now_s := self._clock()), "changed_s": now_s,
                }  # fmt: skip
                self._insert_feedback(row)
            found = self._db.one("SELECT * FROM feedback WHERE id=?", feedback_id)
        assert found is not None
        return _feedback_of(found)

    def one_feedback(self, feedback_id: str) -> Feedback:
        rows = self._db.all("SELECT * FROM feedback WHERE id=?", feedback_id)
        if not rows:
            raise _no_feedback(feedback_id)
        return _feedback_of(rows[0])

    def feedback(
        self,
        model: str | None = None,
        model_id: str | None = None,
        verdict: Thumb | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[FeedbackLine]:
        before = None if after is None else self._seq(after)
        asked = {"model=?": model, "model_id=?": model_id, "verdict=?": verdict, "seq<?": before}
        given = {text: value for text, value in asked.items() if value is not None}
        # Only what is asked for stands in the query, so that an index serves it.
        where = f" WHERE {' AND '.join(given)}" if given else ""
        rows = self._db.all(
            f"SELECT {_LINE} FROM feedback{where} ORDER BY seq DESC LIMIT ?",  # noqa: S608
            *given.values(), -1 if limit is None else limit,
        )  # fmt: skip
        return [FeedbackLine(**row) for row in rows]

    def remove_feedback(self, feedback_id: str) -> None:
        with self._db.writing():
            removed = self._db.execute("DELETE FROM feedback WHERE id=?", (feedback_id,)).rowcount
        if not removed:
            raise _no_feedback(feedback_id)

    def _require_room(self, key_id: str) -> None:
        """Within `writing`."""
        found = self._db.one("SELECT count(*) AS n FROM feedback WHERE key_id=?", key_id)
        if found and found["n"] >= MAX_ROWS_PER_KEY:
            raise QuotaError(
                f"the key has judged {MAX_ROWS_PER_KEY:,} answers, which is the most that one may",
                hint="a key of the scope all removes some: `DELETE /api/v1/feedback/{id}`",
            )

    def _insert_feedback(self, row: Row) -> None:
        """Within `writing`."""
        marks = ",".join("?" * len(row))
        self._db.execute(
            f"INSERT INTO feedback ({', '.join(row)}) VALUES ({marks})",  # noqa: S608
            tuple(row.values()),
        )

    def _seq(self, feedback_id: str) -> int:
        rows = self._db.all("SELECT seq FROM feedback WHERE id=?", feedback_id)
        if not rows:
            raise _no_feedback(feedback_id)
        return int(rows[0]["seq"])


def _no_feedback(feedback_id: str) -> NotFoundError:
    shown = feedback_id[:_SHOWN_CHARS]
    hint = "`mulm feedback ls` lists it, and so does `GET /api/v1/feedback`"
    return NotFoundError(f"no feedback {shown!r}", hint=hint)


def _digest(answered: Answered) -> str:
    return hashlib.sha256(canonical_json(asdict(answered))).hexdigest()


def _row_of(answered: Answered) -> Row:
    """The columns that tell what is judged."""
    said = [turn["content"] for turn in answered.messages if turn["role"] == "user"]
    return asdict(answered) | {
        "messages": json.dumps(answered.messages, ensure_ascii=False),
        "asked_start": said[-1][:START_CHARS] if said else "",
        "answer_start": answered.answer[:START_CHARS],
    }


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
