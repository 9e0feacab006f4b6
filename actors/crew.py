"""The crew of all ingresses through the cluster: which of them leads, and what the others saw.

Used by the ingress host; the owner of the ledger keeps the book (`mulm.crew`). Invariant: who gets
no answer does not lead.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

import ray

from actors.ledger_host import ACTOR_NAME, NAMESPACE
from actors.remote_answer import HINT, answer
from mulm.crew import Meeting, Word
from mulm.errors import MulmError, NotRunningError

TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)


class CrewClient:
    """One of the crew; safe to share between threads.

    Args:
        handle: Of the actor that owns the ledger.
    """

    def __init__(self, handle: Any) -> None:
        self._handle, self._name = handle, secrets.token_hex(8)

    def meet(self, word: Word) -> Meeting:
        """As `CrewBook.meet`. Raises MulmError: the owner does not answer."""
        reference = self._handle.meet.remote(self._name, word)
        met: Meeting = answer(reference, "ledger", "meet", TIMEOUT_S)
        return met

    def leave(self) -> None:
        """As `CrewBook.leave`; where the owner does not answer, time does it."""
        try:
            answer(self._handle.leave.remote(self._name), "ledger", "leave", TIMEOUT_S)
        except MulmError as error:
            _log.warning("this ingress leads until it is forgotten why=%s", error.message)


def join_crew() -> CrewClient:
    """Join the crew of the cluster that this process is connected to; its ledger is there.

    Raises:
        NotRunningError: it is not.
    """
    try:
        return CrewClient(ray.get_actor(ACTOR_NAME, namespace=NAMESPACE))
    except ValueError:
        raise NotRunningError("there is no ledger in this cluster", hint=HINT) from None
