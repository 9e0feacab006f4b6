"""Rows of the ledger's database as the records of `mulm.records`, and JSON for its columns.

Called by `mulm.ledger`. Pure. Invariant: a text that is damaged is said to be so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mulm.errors import CorruptError
from mulm.records import Event, Run, Version


def version_of(row: Mapping[str, Any]) -> Version:
    """A row of the table of versions."""
    return Version(**row)


def run_of(row: Mapping[str, Any]) -> Run:
    """A row of the table of runs."""
    found = {key: loaded(row[key]) if row[key] else None for key in ("result", "error")}
    return Run(**{**row, "config": loaded(row["config"]), **found})


def event_of(row: Mapping[str, Any]) -> Event:
    """A row of the table of events."""
    return Event(row["run_id"], row["seq"], row["time_s"], row["kind"], loaded(row["data"]))


def loaded(text: Any, read: Callable[[Any], Any] = json.loads) -> Any:
    """What a column for JSON holds, read back. Raises CorruptError."""
    try:
        return read(text)
    except (ValueError, TypeError):
        raise CorruptError(
            "a row of the ledger is damaged",
            hint="restore a backup (`mulm restore FILE --replace`); `mulm doctor` says more",
        ) from None


def dumped(value: Mapping[str, Any] | None) -> str | None:
    """What a column for JSON holds."""
    return None if value is None else json.dumps(dict(value))
