"""Leases: which rows of a run each island trains on.

Kept by the aggregator. A run is a line of rows, in the order that dataset and seed give. Islands
are given pieces of it; what one leaves undone is given to the next that asks. Invariants: a row is
with one island at most; what is free or with nobody is given again before the line goes on; pieces
get smaller towards the end, so that all islands end together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from mulm.train.sync.rounds import Lease


class Leases:
    """The line of `n_rows`, of which the first `line` are given.

    Every piece is a multiple of `granule` rows, as the line is.
    """

    def __init__(self, n_rows: int, granule: int, line: int = 0) -> None:
        assert n_rows % granule == 0, "the line is no whole number of steps of an island"
        self._n_rows, self._granule = n_rows, granule
        self.line = line
        self._free: deque[tuple[int, int]] = deque()
        self._held: dict[str, deque[tuple[int, int]]] = {}
        self._n_done: dict[str, int] = {}

    @property
    def n_done(self) -> int:
        """Rows that are done, by whomever."""
        return self.line - self.n_open

    @property
    def n_open(self) -> int:
        """Rows that were given and are not done, or are free again."""
        held = sum(stop - start for pieces in self._held.values() for start, stop in pieces)
        return held + sum(stop - start for start, stop in self._free)

    @property
    def is_complete(self) -> bool:
        """Whether all rows are done."""
        return self.line == self._n_rows and not self.n_open

    def skip_to(self, line: int) -> None:
        """An island knows of rows beyond the line: somebody has them, or had."""
        self.line = max(self.line, min(line, self._n_rows))

    def give(self, island: str, n_rows: int, n_islands: int) -> Lease:
        """About so many rows; at most a fair part of what is left.

        An island asks when it has done all rows that it knows of: what it holds is what it did not
        hear of, as an answer was lost.
        """
        if held := self._held.get(island):
            return Lease(*held[0], self.n_done, self.line)
        left = self._n_rows - self.line + sum(stop - start for start, stop in self._free)
        fair = -(-left // (2 * max(1, n_islands)))
        wanted = self._rounded(min(max(n_rows, 1), fair))
        start, stop = self._cut(wanted)
        if stop > start:
            self._held.setdefault(island, deque()).append((start, stop))
        return Lease(start, stop, self.n_done, self.line, self.is_complete)

    def done(self, island: str, n_done: int) -> None:
        """The island has done the first `n_done` rows of all that it was given."""
        n_new = n_done - self._n_done.get(island, 0)
        self._n_done[island] = max(n_done, self._n_done.get(island, 0))
        pieces = self._held.get(island, deque())
        while n_new > 0 and pieces:
            start, stop = pieces.popleft()
            n_part = min(n_new, stop - start)
            n_new -= n_part
            if start + n_part < stop:
                pieces.appendleft((start + n_part, stop))

    def free(self, island: str) -> None:
        """Take back what the island has not done, and count it from nothing again."""
        self._free.extend(self._held.pop(island, ()))
        self._n_done.pop(island, None)

    def state(self) -> dict[str, Any]:
        """What JSON can hold: how far the line is, and the rows before it that are not done."""
        held = [piece for pieces in self._held.values() for piece in pieces]
        return {"line": self.line, "open": sorted([*self._free, *held])}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; what is not done is free.

        Made for another granule, a border is moved so that rows are rather taken again than left.
        """
        whole = self._granule
        self.line = self._rounded(int(state["line"]))
        # Rows that the last, rounded, step would count as done without having been given.
        opened = [*state["open"], (int(state["line"]), self.line)]
        pieces = [
            (int(start) // whole * whole, min(self._rounded(int(stop)), self._n_rows))
            for start, stop in opened
            if start < stop
        ]
        self._free = deque(_merged(pieces))
        self._held, self._n_done = {}, {}

    def _rounded(self, n_rows: int) -> int:
        return -(-n_rows // self._granule) * self._granule

    def _cut(self, wanted: int) -> tuple[int, int]:
        if self._free:
            start, stop = self._free.popleft()
            if stop - start > wanted:
                self._free.appendleft((start + wanted, stop))
                stop = start + wanted
            return start, stop
        start, self.line = self.line, min(self.line + wanted, self._n_rows)
        return start, self.line


def _merged(pieces: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same rows, each once."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(pieces):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged
