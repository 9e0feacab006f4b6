"""The desk of feedback: what people have said of answers, and how it is forgotten.

Made for `mulm feedback`: over the control API of a server, here or elsewhere, or in the ledger of
this machine while the application is down. Invariants: both tell the same, in the words of the API;
what is removed leaves a row in the audit log.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from jobs.remote import Remote
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.records import Feedback, FeedbackLine, Thumb

Told = dict[str, Any]


class FeedbackDesk(Protocol):
    """Feedback as the control API tells it."""

    def all(self, model: str | None, model_id: str | None, verdict: Thumb | None) -> Iterator[Told]:
        """What was said of a model, of weights, of a verdict, or all; the newest first.

        Without the conversations; each with how the last question and the answer begin.
        """

    def one(self, feedback_id: str) -> Told:
        """What was said of one answer, with the conversation. Raises NotFoundError."""

    def remove(self, feedback_id: str) -> None:
        """Forget what was said of an answer. Raises NotFoundError."""


class RemoteFeedback:
    """The desk of a server that is up."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def all(self, model: str | None, model_id: str | None, verdict: Thumb | None) -> Iterator[Told]:
        """See `FeedbackDesk.all`."""
        return self._remote.items("feedback", model=model, model_id=model_id, verdict=verdict)

    def one(self, feedback_id: str) -> Told:
        """See `FeedbackDesk.one`."""
        found: Told = self._remote.get(f"feedback/{feedback_id}")
        return found

    def remove(self, feedback_id: str) -> None:
        """See `FeedbackDesk.remove`."""
        self._remote.delete(f"feedback/{feedback_id}")


class LedgerFeedback:
    """The desk of this machine while the application is down."""

    def __init__(self, facts: Ledger) -> None:
        self._facts = facts

    def all(self, model: str | None, model_id: str | None, verdict: Thumb | None) -> Iterator[Told]:
        """See `FeedbackDesk.all`."""
        return map(_in_a_line, self._facts.feedback(model, model_id, verdict))

    def one(self, feedback_id: str) -> Told:
        """See `FeedbackDesk.one`."""
        return _whole(self._facts.one_feedback(feedback_id))

    def remove(self, feedback_id: str) -> None:
        """See `FeedbackDesk.remove`."""
        self._facts.remove_feedback(feedback_id)
        who, subject = f"user:{getpass.getuser()}", f"/api/v1/feedback/{feedback_id}"
        self._facts.add_audit(who, "", "CLI", "mulm feedback rm", subject, "done")


@contextmanager
def ledger_desk(home: Home) -> Iterator[LedgerFeedback]:
    """The desk of this machine's ledger, which nobody else may have open."""
    with Ledger(home.create().ledger) as facts:
        yield LedgerFeedback(facts)


def _in_a_line(found: FeedbackLine) -> Told:
    starts = {"asked_start": found.asked_start, "answer_start": found.answer_start}
    return _told(found, found) | starts


def _whole(found: Feedback) -> Told:
    answered = found.answered
    said = {"messages": list(answered.messages), "answer": answered.answer}
    return _told(found, answered) | said


def _told(found: Feedback | FeedbackLine, answered: Any) -> Told:
    return {
        "id": found.id,
        "object": "feedback",
        "model": answered.model,
        "model_id": answered.model_id,
        "answer_id": answered.answer_id,
        "verdict": found.verdict,
        "comment": found.comment,
        "key": found.key_id,
        "created_at": int(found.created_s),
        "changed_at": int(found.changed_s),
    }
