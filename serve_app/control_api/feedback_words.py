"""What the API tells of feedback: a line of a list, or all of it with the conversation.

Used by the routes, and by `mulm feedback` on a machine whose application is down. Invariant: both
tell the same.
"""

from __future__ import annotations

from typing import Any

from mulm.records import Answered, Feedback, FeedbackLine


def in_a_line(found: FeedbackLine) -> dict[str, Any]:
    """Without the conversation; with how the last question and the answer begin."""
    starts = {"asked_start": found.asked_start, "answer_start": found.answer_start}
    return _told(found, found, starts)


def described(found: Feedback) -> dict[str, Any]:
    """All of it."""
    answered = found.answered
    said = {"messages": list(answered.messages), "answer": answered.answer}
    return _told(found, answered, said)


def _told(
    found: Feedback | FeedbackLine, answered: Answered | FeedbackLine, said: dict[str, Any]
) -> dict[str, Any]:
    return {
        "id": found.id,
        "object": "feedback",
        "model": answered.model,
        "model_id": answered.model_id,
        "answer_id": answered.answer_id,
        **said,
        "verdict": found.verdict,
        "comment": found.comment,
        "key": found.key_id,
        "created_at": int(found.created_s),
        "changed_at": int(found.changed_s),
    }
