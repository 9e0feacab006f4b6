"""Rows of the ledger's database as the records of `mulm.records`, and JSON for its columns.

Called by `mulm.ledger`. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mulm.records import Event, Run, Version


def version_of(row: Mapping[str, Any]) -> Version:
    """A row of the table of versions."""
    return Version(**row)


def run_of(row: Mapping[str, Any]) -> Run:
    """A row of the table of runs."""
    loaded = {key: json.loads(row[key]) if row[key] else None for key in ("result", "error")}
    return Run(**{**row, "config": json.loads(row["config"]), **loaded})


def event_of(row: Mapping[str, Any]) -> Event:
    """A row of the table of events."""
    return Event(row["run_id"], row["seq"], row["time_s"], row["kind"], json.loads(row["data"]))


def dumped(value: Mapping[str, Any] | None) -> str | None:
    """What a column for JSON holds."""
    return None if value is None else json.dumps(dict(value))
