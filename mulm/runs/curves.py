"""Curves of runs, kept and brought up to date: what was read once is not read again.

Asked by the HTTP API, which tells the same curve again and again while a run goes on. Invariants:
they are those of `mulm.runs.curve`, since events of a run only ever come behind others; no more
than `max_rows` rows and `MAX_RUNS` runs are kept, those that were asked for last. Threads may share
one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from mulm.facts import Facts
from mulm.runs.curve import Row, in_order, take_in

MAX_ROWS = 50_000
"""Some 50 MB; a longer run is read from its beginning each time."""
MAX_RUNS = 200
_BATCH = 1000


@dataclass(slots=True)
class _Kept:
    """What was read of one run."""

    rows: dict[int, Row] = field(default_factory=dict)
    after: int = 0
    """The number of the last event that was read."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Curves:
    """The curves of the runs of one ledger.

    Args:
        facts: The ledger.
        max_rows: How many rows are kept at most.
    """

    def __init__(self, facts: Facts, max_rows: int = MAX_ROWS) -> None:
        self._facts, self._max_rows = facts, max_rows
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, run_id: str) -> list[Row]:
        """The curve of a run as it is now, see `mulm.runs.curve.curve`; empty for a stranger."""
        with self._lock:
            kept = self._kept.setdefault(run_id, _Kept())
            self._kept.move_to_end(run_id)
        with kept.lock:
            while batch := self._facts.events(run_id, kept.after, _BATCH, ("metric",)):
                take_in(batch, kept.rows)
                kept.after = batch[-1].seq
            rows = in_order(kept.rows)
        self._forget(run_id, len(rows))
        return rows

    def _forget(self, run_id: str, n_own: int) -> None:
        """Keep within bounds; a run that is beyond them alone pushes no other out."""
        with self._lock:
            if n_own > self._max_rows:
                self._kept.pop(run_id, None)
            n_rows = sum(len(kept.rows) for kept in self._kept.values())
            while n_rows > self._max_rows or len(self._kept) > MAX_RUNS:
                _, oldest = self._kept.popitem(last=False)
                n_rows -= len(oldest.rows)
