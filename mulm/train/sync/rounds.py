"""The contract between islands and their aggregator: what they say to each other.

An *island* is the workers that sum gradients every step; the *anchor* the weights that all islands
agree on; *progress* an island's weights minus the anchor; a *round* of a *fragment*, a part of the
parameters, ends with an update of that part of the anchor. `Aggregator` implements `Rounds`, and so
does a client of one that is elsewhere. Invariants: after the update of a round every island has
bit for bit the same anchor; progress that is not part of an update stays with its island and goes
with a later one; all calls end within their deadline. Shape letters: N numbers of a fragment.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mulm.errors import ConflictError
from mulm.train.sync.outer_link import OuterLink


class NotAMemberError(ConflictError):
    """The aggregator does not know the island, or no longer: it is to join again."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an island is when it joins.

    `sizes` are the numbers of each fragment; `rounds` is how many rounds of each its anchor has,
    empty where it has none; `line` the first row that nobody had been given when it last heard;
    `sums` the checksum of each anchor: after an aggregator's death two may have as many rounds, and
    not the same.
    """

    sizes: tuple[int, ...]
    rounds: tuple[int, ...] = ()
    line: int = 0
    sums: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Joined:
    """What a joiner is to do: send its anchors of some fragments, fetch those of others."""

    send: tuple[int, ...]
    fetch: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """Rows [start, stop) of the run for one island, and how all are getting on.

    An empty one says that none is left to be given. `n_done` rows are done, by all of `n_islands`;
    `leader` is the island that speaks for them, and `line` the first row that nobody was given.
    Rounds last `round_s` from now on; 0 leaves them as they are.
    """

    start: int
    stop: int
    n_done: int
    line: int
    is_complete: bool = False
    n_islands: int = 1
    leader: str = ""
    round_s: float = 0.0

    @property
    def n_rows(self) -> int:
        """How many rows."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Anchor:
    """All numbers of a fragment's anchor, as fp32, after so many rounds."""

    fragment: int
    number: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Offer:
    """An island's progress of a fragment, encoded, and the tokens that it was made with.

    `number` is that of the anchor which the progress was measured from.
    """

    island: str
    fragment: int
    number: int
    n_tokens: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class Update:
    """What the anchor of a fragment moves by in a round, encoded.

    `islands` had a part in it; the progress of others is still their own.
    """

    fragment: int
    number: int
    islands: frozenset[str]
    payload: bytes


def checksum(anchor_N: Tensor) -> int:
    """Of an anchor's numbers, bit for bit."""
    return zlib.crc32(anchor_N.contiguous().numpy().data)


class Rounds(Protocol):
    """An aggregator, here or elsewhere.

    All may raise NotRunningError where it does not answer in time, and all but `join`
    NotAMemberError. An index of a fragment is that of the joiner's sizes.
    """

    def join(self, island: str, standing: Standing) -> Joined:
        """Become a member, also again; what was given to an earlier self of the island is free.

        Raises:
            ConflictError: the others cut their parameters in another way.
        """

    def send(self, island: str, anchor: Anchor) -> None:
        """Give the aggregator an anchor that it lacks or is behind of; of the first it is taken."""

    def fetch(self, island: str, fragment: int) -> Anchor:
        """The newest anchor of a fragment."""

    def lease(self, island: str, n_rows: int, n_done: int) -> Lease:
        """Be given about `n_rows` more rows, after the first `n_done` rows that it ever had."""

    def offer(self, offer: Offer) -> int:
        """Give progress; returns the round that it counts in, also where it was given before.

        That is the round after the one that it was made for, where that was over already.
        """

    def take(self, island: str, fragment: int, number: int, timeout_s: float) -> Update | None:
        """Wait for the update of a round; None where it has none yet.

        Raises:
            NotAMemberError: the round is so long over that its update is gone.
        """

    def leave(self, island: str, n_done: int) -> None:
        """Go; rows that were not done are given to others. Harmless where it is no member."""


class RoundsClient(Rounds, Protocol):
    """An aggregator as an island reaches it; several threads call at once."""

    def close(self) -> None:
        """End what it holds open; calls under way fail, as do later ones."""


Reach = Callable[[OuterLink, int], RoundsClient]
"""Where the aggregator is, and the bytes of a payload at most; what is said goes from there on."""
