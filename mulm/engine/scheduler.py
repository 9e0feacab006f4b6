"""Who runs in the next step.

Called by the engine only. Sequences wait in arrival order for one of `n_slots` cache slots; the
waiting line is bounded. Invariants: a slot belongs to at most one sequence; nobody overtakes;
every slot is either free or held by a running sequence (`check_integrity`).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from mulm.engine.request import Sequence
from mulm.errors import OverloadedError


@dataclass(frozen=True, slots=True)
class Prefill:
    """The next `n_tokens` unread prompt tokens of one sequence."""

    sequence: Sequence
    n_tokens: int

    @property
    def completes_prompt(self) -> bool:
        """Whether the sequence can be sampled from afterwards."""
        return self.sequence.n_cached + self.n_tokens == self.sequence.n_prompt


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step computes."""

    prefills: tuple[Prefill, ...]
    decodes: tuple[Sequence, ...]


class Scheduler:
    """Slots, the waiting line, and the plan of each step.

    Args:
        n_slots: Sequences that run at the same time.
        max_waiting: Sequences that may wait for a slot.
        prefill_tokens: Prompt tokens read in one step at most, so that a long prompt does not
            stall the streams that run beside it.
    """

    def __init__(self, n_slots: int, max_waiting: int, prefill_tokens: int) -> None:
        self.n_slots = n_slots
        self._max_waiting = max_waiting
        self._prefill_tokens = prefill_tokens
        self._free_slots = list(range(n_slots))  # a heap: low slots stay adjacent in the cache
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []

    def __iter__(self) -> Iterator[Sequence]:
        """All unfinished sequences: the running ones, then the waiting ones in order."""
        return iter((*self._running, *self._waiting))

    @property
    def n_running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        """Sequences in the waiting line."""
        return len(self._waiting)

    def can_enqueue(self) -> bool:
        """Whether the line has room for one more."""
        return self.n_waiting < self._max_waiting + len(self._free_slots)

    def enqueue(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the line.

        Raises:
            OverloadedError: no free slot and the line is full.
        """
        if not self.can_enqueue():
            raise OverloadedError(
                f"{self.n_running} requests are running and {self.n_waiting} are waiting",
                hint="try again in a moment",
            )
        self._waiting.append(sequence)

    def can_admit(self) -> bool:
        """Whether somebody waits and a slot is free."""
        return bool(self._waiting and self._free_slots)

    def admit(self) -> Sequence:
        """Give the first in line a slot; only after `can_admit`."""
        sequence = self._waiting.popleft()
        sequence.slot = heapq.heappop(self._free_slots)
        self._running.append(sequence)
        return sequence

    def plan(self) -> StepPlan:
        """Admit whom we can, then choose the work of one step; running streams always decode."""
        while self.can_admit():
            self.admit()
        decodes = [s for s in self._running if not s.is_prefilling]
        return StepPlan(tuple(self._prefills()), tuple(sorted(decodes, key=_slot)))

    def release(self, sequence: Sequence) -> None:
        """Forget a sequence and free its slot, wherever it stands."""
        if sequence.slot is None:
            self._waiting.remove(sequence)
            return
        self._running.remove(sequence)
        heapq.heappush(self._free_slots, sequence.slot)
        sequence.slot = None

    def check_integrity(self) -> None:
        """Assert that free and held slots together are all slots, each once."""
        held = [s.slot for s in self._running if s.slot is not None]
        assert len(held) == len(self._running), "a running sequence has no slot"
        assert sorted(held + self._free_slots) == list(range(self.n_slots)), "slots leaked"
        assert all(s.slot is None for s in self._waiting), "a waiting sequence holds a slot"

    def _prefills(self) -> Iterator[Prefill]:
        budget = self._prefill_tokens
        for sequence in self._running:
            if budget and sequence.is_prefilling:
                n_tokens = min(budget, sequence.n_prompt - sequence.n_cached)
                budget -= n_tokens
                yield Prefill(sequence, n_tokens)


def _slot(sequence: Sequence) -> int:
    assert sequence.slot is not None
    return sequence.slot
