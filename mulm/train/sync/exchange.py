"""The threads of an island that talk to the aggregator, while training goes on.

Owned by `Island`, one for each fragment. All arithmetic of an exchange is done here, so that it
costs the training loop a copy and an addition. Invariants: parameters are not touched here; a
fragment's anchor is changed here alone while its exchange is under way; an aggregator that does not
answer is asked again for as long as the patience lasts, or until `close`. Shape letters: N numbers
of a fragment.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, zeros_like

from mulm.errors import NotRunningError
from mulm.train.sync.codec import Codec
from mulm.train.sync.rounds import NotAMemberError, Offer, Rounds, Update

_log = logging.getLogger(__name__)

_TAKE_S = 5.0
"""One question for an update waits so long."""
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.2, 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sent:
    """Progress as the others decode it, its tokens, and the round that it counts in."""

    own_N: Tensor
    n_tokens: float
    counts_in: int


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What the weights are to move by after a round; without one the island has to join.

    `n_tokens` are those whose progress counted; `sent` is what counts in a later round.
    """

    sent: Sent | None
    change_N: Tensor | None = None
    n_tokens: float = 0.0


class Exchanges:
    """Exchanges under way, of the island `name`.

    Args:
        rounds: The aggregator.
        give_up_s: How long it may be away.
    """

    def __init__(
        self,
        rounds: Rounds,
        name: str,
        codec: Codec,
        n_fragments: int,
        give_up_s: float,
        now_s: Callable[[], float],
    ) -> None:
        self._rounds, self._name, self._codec = rounds, name, codec
        self._give_up_s, self._now_s = give_up_s, now_s
        self._pool = ThreadPoolExecutor(n_fragments, thread_name_prefix="island")
        self._ending = threading.Event()

    def begin(
        self, place: int, number: int, anchor_N: Tensor, weight_N: Tensor | None, n_tokens: float
    ) -> Future[Exchanged]:
        """Give progress from the anchor of that number, and wait for the round's update.

        The anchor is this thread's until it is done, and moves by the update. An island without
        tokens of its own gives no weights, and counts for nothing, but nobody waits for it.
        """
        return self._pool.submit(self._exchange, place, number, anchor_N, weight_N, n_tokens)

    def follow(self, place: int, number: int, anchor_N: Tensor, sent: Sent) -> Future[Exchanged]:
        """Wait for one more update: progress came late, and counts in a later round."""
        return self._pool.submit(self._follow, place, number, anchor_N, sent)

    def patiently(self, call: Callable[[], T]) -> T:
        """Call again where nobody answers.

        Raises:
            NotRunningError: the aggregator did not answer for too long.
        """
        until_s, pause_s = self._now_s() + self._give_up_s, _FIRST_RETRY_S
        while True:
            try:
                return call()
            except NotRunningError as error:
                if self._now_s() > until_s or self._ending.wait(pause_s):
                    raise
                _log.info("the aggregator does not answer reason=%s", error.message)
                pause_s = min(2 * pause_s, _LONGEST_RETRY_S)

    def close(self) -> None:
        """End the threads."""
        self._ending.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _exchange(
        self, place: int, number: int, anchor_N: Tensor, weight_N: Tensor | None, n_tokens: float
    ) -> Exchanged:
        progress_N = zeros_like(anchor_N) if weight_N is None else weight_N.sub_(anchor_N)
        payload = self._codec.encode(progress_N)
        offer = Offer(self._name, place, number, n_tokens, payload)
        try:
            counts_in = self.patiently(lambda: self._rounds.offer(offer))
        except NotAMemberError:
            return Exchanged(None)
        own_N = self._codec.decode(payload, anchor_N.numel())
        return self._follow(place, number, anchor_N, Sent(own_N, n_tokens, counts_in))

    def _follow(self, place: int, number: int, anchor_N: Tensor, sent: Sent) -> Exchanged:
        try:
            update = self._update(place, number)
        except NotAMemberError:
            return Exchanged(sent)
        update_N = self._codec.decode(update.payload, anchor_N.numel())
        anchor_N.add_(update_N)
        if number < sent.counts_in:
            return Exchanged(sent, update_N)  # it came late: the next update has it
        if self._name not in update.islands:
            return Exchanged(None, update_N)
        return Exchanged(None, update_N.sub_(sent.own_N), sent.n_tokens)

    def _update(self, place: int, number: int) -> Update:
        while True:
            update = self.patiently(lambda: self._rounds.take(self._name, place, number, _TAKE_S))
            if update is not None:
                return update
            if self._ending.is_set():
                raise NotRunningError("the island ends")
