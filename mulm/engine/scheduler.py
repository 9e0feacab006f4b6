"""Who runs in the next step.

Called by the engine only. Sequences wait in order of arrival for a slot and for pages; the waiting
line is bounded in requests and in tokens. Running streams go first in every step, then prompts are
read in pieces, so that a long one stalls nobody. When pages run out, the youngest loses its own and
waits at the front of the line to be read anew. Invariants: nobody overtakes; pages are held by
running sequences only (`check_integrity`).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass

from mulm.engine.budget import StepBudget
from mulm.engine.pages import PagePool, pages_for
from mulm.engine.request import Sequence
from mulm.errors import OverloadedError
from mulm.messages import GenerateRequest
from mulm.model.batch import PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class Work:
    """The next `n_tokens` unread tokens of one sequence, and guesses of what follows them."""

    sequence: Sequence
    n_tokens: int
    guesses: tuple[int, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether the sequence can be sampled from afterwards."""
        return self.n_tokens == self.sequence.n_unread


class Scheduler:
    """Slots, pages, the waiting line, and the plan of each step.

    Args:
        n_slots: Sequences that run at the same time.
        n_pages: Pages of keys and values.
        max_waiting: Sequences that may wait for a slot.
        max_waiting_tokens: Prompt tokens that may wait.
    """

    def __init__(
        self,
        n_slots: int,
        n_pages: int,
        max_waiting: int,
        max_waiting_tokens: int,
    ) -> None:
        self.n_slots = n_slots
        self.pages = PagePool(n_pages)
        self.n_preemptions = 0
        self.n_looked_up = 0
        self.n_found = 0
        self.waiting_tokens = 0
        self._max_waiting = max_waiting
        self._max_waiting_tokens = max_waiting_tokens
        self._free_slots = list(range(n_slots))  # a heap
        self._waiting: OrderedDict[Sequence, None] = OrderedDict()  # any of them may leave it
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

    def can_enqueue(self, request: GenerateRequest) -> bool:
        """Whether the line has room for all its choices; an empty line takes any one request."""
        if not self._waiting:
            return True
        n_sequences = max(request.n, request.best_of)
        n_tokens = n_sequences * len(request.prompt_ids)
        fits = self.n_waiting + n_sequences <= self._max_waiting + len(self._free_slots)
        return fits and self.waiting_tokens + n_tokens <= self._max_waiting_tokens

    def require_room(self, request: GenerateRequest) -> None:
        """Refuse what `can_enqueue` denies. Raises OverloadedError."""
        if not self.can_enqueue(request):
            raise OverloadedError(
                f"{self.n_running} sequences are running and {self.n_waiting} are waiting"
                f" with {self.waiting_tokens} tokens",
                hint="try again in a moment",
            )

    def enqueue(self, sequences: Items[Sequence]) -> None:
        """Put a request's sequences at the end of the line; only after `can_enqueue`."""
        self._waiting.update(dict.fromkeys(sequences))
        self.waiting_tokens += sum(s.n_unread for s in sequences)

    def plan(self, step: StepBudget) -> list[Work]:
        """The work of one step: a token of each stream, then as much of prompts as it may last."""
        works = [Work(s, 1) for s in self._streams()]
        budget = step.tokens(len(works))
        for sequence in self._running:
            if budget and sequence.n_unread > 1:
                works.append(Work(sequence, min(budget, sequence.n_unread)))
                budget -= works[-1].n_tokens
        while budget and (found := self._room_for_first()) is not None:
            sequence = self._admit(found)
            works.append(Work(sequence, min(budget, sequence.n_unread)))
            budget -= works[-1].n_tokens
        return works

    def advance(self, works: list[Work]) -> None:
        """Note that the plan was carried out; full pages can be found from now on."""
        for work in works:
            self.count(work.sequence, work.n_tokens)

    def count(self, sequence: Sequence, n_tokens: int) -> None:
        """Note that the cache holds more of a sequence's tokens."""
        sequence.n_cached += n_tokens
        while (sequence.n_kept + 1) * PAGE_TOKENS <= sequence.n_cached:
            begin = sequence.n_kept * PAGE_TOKENS
            tokens = sequence.token_ids[begin : begin + PAGE_TOKENS]
            page = sequence.pages[sequence.n_kept]
            sequence.last_kept = self.pages.keep(page, sequence.last_kept, tokens)
            sequence.n_kept += 1

    def room_ahead(self, sequence: Sequence, n_tokens: int) -> int:
        """Make room for so many tokens behind a stream's next one, as far as pages are free.

        Nobody gives way for guesses; what they do not need now is for the tokens that come.
        """
        n_new = pages_for(sequence.n_cached + 1 + n_tokens) - len(sequence.pages)
        if n_new > 0 and self.pages.can_allocate(n_new):
            sequence.pages += self.pages.allocate(n_new)
        return min(n_tokens, len(sequence.pages) * PAGE_TOKENS - sequence.n_cached - 1)

    def release(self, sequence: Sequence) -> None:
        """Forget a sequence and free what it holds, wherever it stands."""
        if sequence.slot is None:
            del self._waiting[sequence]
            self.waiting_tokens -= sequence.n_unread
            return
        self._running.remove(sequence)
        self._take_back(sequence)

    def read_anew(self) -> None:
        """Have every running sequence computed again from its tokens, as for new weights."""
        while self._running:
            self._put_back(self._running[-1])
        self.pages.forget()

    def check_integrity(self) -> None:
        """Assert that slots and pages add up."""
        held = [s.slot for s in self._running if s.slot is not None]
        assert len(held) == len(self._running), "a running sequence has no slot"
        assert sorted(held + self._free_slots) == list(range(self.n_slots)), "slots leaked"
        for s in self._waiting:
            assert s.slot is None, "a waiting sequence holds a slot"
            assert not s.pages, "a waiting sequence holds pages"
            assert s.n_cached == 0, "a waiting sequence claims to be cached"
        for s in self._running:
            assert s.n_cached <= len(s.pages) * PAGE_TOKENS, "tokens without a page"
        assert self.waiting_tokens == sum(s.n_unread for s in self._waiting), "tokens do not add up"
        self.pages.check_integrity([page for s in self._running for page in s.pages])

    def _streams(self) -> list[Sequence]:
        """Running sequences with one token to read, each with room for it."""
        streams = [
            s
            for s in list(self._running)
            if s.slot is not None and s.n_unread == 1 and self._make_room(s)
        ]
        return [s for s in streams if s.slot is not None]

    def _make_room(self, sequence: Sequence) -> bool:
        """A page for the next token; the youngest gives way, perhaps this one itself."""
        if sequence.n_cached < len(sequence.pages) * PAGE_TOKENS:
            return True
        while not self.pages.can_allocate(1):
            youngest = self._running[-1]
            self.n_preemptions += 1
            self._put_back(youngest)
            if youngest is sequence:
                return False
        sequence.pages += self.pages.allocate(1)
        return True

    def _room_for_first(self) -> list[int] | None:
        """The pages that the first in line begins with, where it can be admitted now."""
        if not (self._waiting and self._free_slots):
            return None
        sequence = next(iter(self._waiting))
        if self._waits_for_sibling(sequence):
            return None
        found = self._find(sequence)
        n_new = pages_for(len(sequence.token_ids) + 1) - len(found)
        return found if self.pages.can_allocate(n_new, found) else None

    def _waits_for_sibling(self, sequence: Sequence) -> bool:
        """Whether its prompt is being read at this moment for another choice."""
        if sequence.index == 0 or sequence.n_prompt <= PAGE_TOKENS or sequence.wants_all_rows:
            return False
        return any(
            s.request is sequence.request and s.n_cached + PAGE_TOKENS < s.n_prompt
            for s in self._running
        )

    def _find(self, sequence: Sequence) -> list[int]:
        """Pages to begin with; the last token is always read, since its row is sampled from."""
        if sequence.wants_all_rows:
            return []
        return self.pages.find(sequence.root, sequence.token_ids[:-1])

    def _admit(self, found: list[int]) -> Sequence:
        """Give the first in line a slot and its pages, after those that `_room_for_first` found."""
        sequence, _ = self._waiting.popitem(last=False)
        self.waiting_tokens -= sequence.n_unread
        self.pages.hold(found)
        n_new = pages_for(len(sequence.token_ids) + 1) - len(found)
        sequence.pages = found + self.pages.allocate(n_new)
        sequence.n_kept = len(found)
        sequence.last_kept = self.pages.serial(found[-1]) if found else sequence.root
        sequence.n_cached = len(found) * PAGE_TOKENS
        if sequence.n_found is None:
            sequence.n_found = sequence.n_cached
            if not sequence.wants_all_rows:
                self.n_looked_up += len(sequence.token_ids)
            self.n_found += sequence.n_cached
        sequence.slot = heapq.heappop(self._free_slots)
        self._running.append(sequence)
        return sequence

    def _put_back(self, sequence: Sequence) -> None:
        """Have a running sequence wait, the first in line, to be read anew."""
        self._running.remove(sequence)
        self._take_back(sequence)
        sequence.n_cached = 0
        sequence.hidden_sum_D = None
        sequence.prompt_logprobs.clear()  # told already where it has begun
        self._waiting[sequence] = None
        self._waiting.move_to_end(sequence, last=False)
        self.waiting_tokens += sequence.n_unread

    def _take_back(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        heapq.heappush(self._free_slots, sequence.slot)
        self.pages.release(sequence.pages)
        sequence.slot, sequence.pages, sequence.n_kept = None, [], 0
