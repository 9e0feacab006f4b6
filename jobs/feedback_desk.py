"""The desk of feedback: what people have said of answers, and how it is forgotten.

Made for `mulm feedback`: over the control API of a server, here or elsewhere, or in the ledger of
this machine while the application is down. Invariants: both tell the same, in the words of the API;
what is removed leaves a row in the audit log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from jobs.ledger_desk import note_of, open_ledger
from jobs.remote import Remote
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.records import Thumb
from serve_app.control_api.feedback_words import described, in_a_line

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
        return map(in_a_line, self._facts.feedback(model, model_id, verdict))

    def one(self, feedback_id: str) -> Told:
        """See `FeedbackDesk.one`."""
        return described(self._facts.one_feedback(feedback_id))

    def remove(self, feedback_id: str) -> None:
        """See `FeedbackDesk.remove`."""
        with self._facts.together():
            self._facts.add_audit(*note_of("mulm feedback rm", f"/api/v1/feedback/{feedback_id}"))
            self._facts.remove_feedback(feedback_id)


@contextmanager
def ledger_desk(home: Home) -> Iterator[LedgerFeedback]:
    """The desk of this machine's ledger, which nobody else may have open."""
    with open_ledger(home) as facts:
        yield LedgerFeedback(facts)
