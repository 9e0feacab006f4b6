"""The requests that are being generated: by id, and by when they must have ended.

Kept by the engine. Invariant: a request is here from when it is taken until its last choice has
ended, its time is over, or it is cancelled; whoever leaves has released what its choices held.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from mulm.engine.group import Group
from mulm.engine.request import Sequence
from mulm.messages import TokenChunk

_MANY = 64


class Unfinished:
    """Groups of choices.

    Args:
        release: Frees what a sequence holds.
    """

    def __init__(self, release: Callable[[Sequence], None]) -> None:
        self._release = release
        self._groups: dict[str, Group] = {}
        self._deadlines: list[tuple[float, int, Group]] = []  # a heap; ended ones leave it later
        self._n_added = 0

    def __len__(self) -> int:
        return len(self._groups)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._groups

    def __iter__(self) -> Iterator[Sequence]:
        """All sequences that have not ended."""
        for group in self._groups.values():
            yield from _open(group)

    def add(self, group: Group, due_s: float) -> None:
        """Keep a request until then."""
        self._groups[group.request.request_id] = group
        self._n_added += 1
        heapq.heappush(self._deadlines, (due_s, self._n_added, group))
        if len(self._deadlines) > 2 * len(self._groups) + _MANY:
            self._deadlines = [entry for entry in self._deadlines if self._holds(entry[2])]
            heapq.heapify(self._deadlines)

    def cancel(self, request_id: str) -> bool:
        """Let go of it with all that it holds; False when it has ended already."""
        group = self._groups.pop(request_id, None)
        if group is not None:
            for sequence in _open(group):
                self._release(sequence)
        return group is not None

    def expire(self, now_s: float) -> list[TokenChunk]:
        """End those whose time is over; what their clients get."""
        late: list[TokenChunk] = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            _, _, group = heapq.heappop(self._deadlines)
            if not self._holds(group):  # another request may have its id by now
                continue
            request_id = group.request.request_id
            for sequence in _open(group):
                self._release(sequence)
                sequence.finish_reason = "deadline"
                late += group.tell(TokenChunk(request_id, (), "deadline", sequence.index))
            del self._groups[request_id]
        return late

    def _holds(self, group: Group) -> bool:
        return self._groups.get(group.request.request_id) is group

    def tell(self, chunks: Iterable[TokenChunk]) -> list[TokenChunk]:
        """What clients get of a step's chunks; who has ended leaves."""
        told: list[TokenChunk] = []
        for chunk in chunks:
            group = self._groups[chunk.request_id]
            if chunk.finish_reason:
                self._release(group.sequences[chunk.index])
            told += group.tell(chunk)
            if group.has_ended:
                del self._groups[chunk.request_id]
        return told


def _open(group: Group) -> list[Sequence]:
    return [sequence for sequence in group.sequences if sequence.finish_reason is None]
