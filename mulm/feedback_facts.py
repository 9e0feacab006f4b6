"""What the ledger can be asked and told of feedback.

Part of the protocol `mulm.facts.Facts`. Invariant: as there, nothing knows where the facts lie.
"""

from __future__ import annotations

from typing import Protocol

from mulm.records import Answered, Feedback, FeedbackLine, Thumb


class FeedbackFacts(Protocol):
    """The methods of `Facts` about feedback."""

    def give_feedback(
        self, feedback_id: str, key_id: str, answered: Answered, verdict: Thumb, comment: str = ""
    ) -> Feedback:
        """Note what a key thinks of an answer; where it has said so before, that is changed.

        Raises QuotaError where the key has judged as many answers as one may.
        """

    def one_feedback(self, feedback_id: str) -> Feedback:
        """All of it, with the conversation. Raises NotFoundError."""

    def feedback(
        self,
        model: str | None = None,
        model_id: str | None = None,
        verdict: Thumb | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[FeedbackLine]:
        """The newest answers first: of a name, of weights, of a verdict, behind the one `after`.

        Raises NotFoundError.
        """

    def remove_feedback(self, feedback_id: str) -> None:
        """Forget what was said of an answer. Raises NotFoundError."""
