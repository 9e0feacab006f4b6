"""A crew: several who do the same work, of whom one leads, and each hears what the others say.

Kept by the owner of the ledger (`actors.ledger_host`), asked twice a second by each ingress, which
all follow the deployments. Pure: the time is passed in. Invariants: one leads at most; who is
silent for `LEASE_S` leads no more and is not heard; nothing of it outlives the owner, after whose
restart the first who asks leads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LEASE_S = 3.0
"""How long one leads, or is heard, without a word."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How the newest requests to one model ended, at one ingress."""

    has_failed: tuple[bool, ...] = ()
    first_token_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """What one ingress has seen of a deployment that has a canary."""

    revision: int
    itself: Outcomes
    canary: Outcomes


Word = Mapping[str, Seen]
"""What one says: what it has seen of deployments, by name."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """What one of a crew is told."""

    leads: bool = True
    words: tuple[Word, ...] = ()
    """Of the others."""


@dataclass(slots=True)
class _Member:
    word: Word
    seen_s: float


class CrewBook:
    """Who is there, and who leads."""

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}
        self._leader = ""

    def meet(self, name: str, now_s: float, word: Word) -> Meeting:
        """Say a word, and hear the others'."""
        self._members[name] = _Member(word, now_s)
        for other, member in list(self._members.items()):
            if now_s - member.seen_s > LEASE_S:
                self.leave(other)
        self._leader = self._leader or name
        words = tuple(each.word for other, each in self._members.items() if other != name)
        return Meeting(self._leader == name, words)

    def leave(self, name: str) -> None:
        """Be there no more."""
        self._members.pop(name, None)
        if self._leader == name:
            self._leader = ""
