"""Weights & Biases, online or into its offline files.

Opened by `registry` for `export_to: [wandb]`. Where to and whether online is decided by wandb's own
settings and variables: with `WANDB_MODE=offline` no network is used, and `wandb sync` sends the
files of the run's folder later. Invariant: a run of ours is one run of theirs, also resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from mulm.train.exporters.base import RunFacts

PROJECT = "mulm"


class WandbExporter:
    """`Exporter` into one run of the project `PROJECT`, unless WANDB_PROJECT names another."""

    def __init__(self, run: RunFacts) -> None:
        import wandb  # optional, and slow to import

        run.folder.mkdir(parents=True, exist_ok=True)
        self._html: Any = wandb.Html
        self._run: Any = wandb.init(
            project=wandb.setup().settings.project or PROJECT, id=run.run_id,
            name=f"{run.name} {run.run_id}", dir=str(run.folder), config=dict(run.config),
            resume="allow", settings=wandb.Settings(console="off"),
        )  # fmt: skip

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Steps that a killed run has told already are passed over by wandb."""
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """As HTML in which nothing is markup."""
        self._run.log({name: self._html(f"<pre>{escape(text)}</pre>")}, step=step)

    def close(self) -> None:
        """Wait until it is written, or sent."""
        self._run.finish()
