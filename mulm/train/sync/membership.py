"""Membership: which islands a round waits for.

Kept by the aggregator. Invariants: a round waits for those alone that were members before it began;
an island that let two rounds of a fragment go by, and then was silent, is no member; time comes
from the clock that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_MISSED = 2
"""Rounds of a fragment that may close without a member, one after the other."""


@dataclass(slots=True)
class Member:
    """An island: from which round of each fragment on it counts, and which it missed."""

    since: list[int]
    missed: list[int] = field(init=False)
    heard_s: float

    def __post_init__(self) -> None:
        self.missed = [0] * len(self.since)


class Membership:
    """The members, by name."""

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._members: dict[str, Member] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, island: str) -> bool:
        return island in self._members

    @property
    def leader(self) -> str:
        """The first by name."""
        return min(self._members)

    def join(self, island: str, rounds: list[int], now_s: float) -> None:
        """Count from the next round of each fragment on; from the first where there was none."""
        since = [number + 1 if number else 0 for number in rounds]
        self._members[island] = Member(since, heard_s=now_s)

    def hear(self, island: str, now_s: float) -> None:
        """It said something."""
        self._members[island].heard_s = now_s

    def leave(self, island: str) -> None:
        """It goes; harmless where it is gone."""
        self._members.pop(island, None)

    def awaited(self, fragment: int, number: int) -> set[str]:
        """Those whom this round waits for."""
        return {name for name, member in self._members.items() if member.since[fragment] <= number}

    def closed(self, fragment: int, number: int, given: set[str], now_s: float) -> list[str]:
        """A round is over; returns those who are members no more, as they missed too many."""
        gone = []
        for name in self.awaited(fragment, number):
            member = self._members[name]
            member.missed[fragment] = 0 if name in given else member.missed[fragment] + 1
            is_silent = now_s - member.heard_s > self._silence_s
            if member.missed[fragment] >= MOST_MISSED and is_silent:
                gone.append(name)
        for name in gone:
            del self._members[name]
        return gone
