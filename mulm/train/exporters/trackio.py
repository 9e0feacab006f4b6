"""Trackio: a local database that `trackio show` draws, or a Space of Hugging Face.

Opened by `registry` for `export_to: [trackio]`. Where to is decided by trackio's own variables,
such as `TRACKIO_DIR`; without them it is a file of this machine, and no network is used.
Invariant: a run of ours is one run of theirs, also resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mulm.train.exporters.base import RunFacts

PROJECT = "mulm"


class TrackioExporter:
    """`Exporter` into one run of the project `PROJECT`."""

    def __init__(self, run: RunFacts) -> None:
        import trackio  # optional, and slow to import

        self._run: Any = trackio.init(
            project=PROJECT, name=f"{run.name} {run.run_id}", config=dict(run.config),
            resume="allow", embed=False,
        )  # fmt: skip

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One curve for each."""
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """As a value that is a text."""
        self._run.log({name: text}, step=step)

    def close(self) -> None:
        """Wait until it is in the database."""
        self._run.finish()
