"""The curve of a training run: its numbers step by step, out of its events.

Called by `mulm runs metrics` and `compare`. Pure. Invariants: a row for each step, in order; a step
that was done again after a crash has the numbers of the last time; whatever numbers events have
are kept, also those that this code does not know.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mulm.records import Event

Row = dict[str, Any]
STEP = "step"
_FIRST = (STEP, "loss", "lr", "grad_norm", "tokens_per_s")
_LAST = ("eta_s",)


def curve(events: Iterable[Event]) -> list[Row]:
    """The rows of a run's "metric" events; a number that JSON cannot hold becomes None."""
    rows: dict[int, Row] = {}
    take_in(events, rows)
    return in_order(rows)


def take_in(events: Iterable[Event], rows: dict[int, Row]) -> None:
    """Add what was measured to rows by their steps; rows that others hold stay as they are."""
    for event in events:
        if event.kind == "metric" and STEP in event.data:
            step = int(event.data[STEP])
            rows[step] = {**rows.get(step, {}), **finite(event.data)}


def in_order(rows: Mapping[int, Row]) -> list[Row]:
    """The rows by their steps."""
    return [rows[step] for step in sorted(rows)]


def columns(rows: Iterable[Row]) -> list[str]:
    """Their names: those that every run has first, then the others as they come."""
    seen = dict.fromkeys(name for row in rows for name in row)
    first = [name for name in _FIRST if name in seen]
    last = [name for name in _LAST if name in seen]
    return [*first, *(name for name in seen if name not in (*first, *last)), *last]


def thinned(rows: Sequence[Row], every: int | None = None, last: int | None = None) -> list[Row]:
    """The rows of every so many steps and the newest one; or the last few rows."""
    kept = list(rows)
    if every:
        kept = [row for row in kept if row[STEP] % every == 0 or row is kept[-1]]
    return kept[max(0, len(kept) - last) :] if last is not None else kept


def newest(rows: Iterable[Row]) -> Row:
    """The newest value of each number; their steps differ where one is measured less often."""
    found: Row = {}
    for row in rows:
        found |= {name: value for name, value in row.items() if value is not None}
    return found


def finite(values: Mapping[str, Any]) -> Row:
    """The values; None for a number that JSON cannot hold, such as the loss of a diverged step."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
