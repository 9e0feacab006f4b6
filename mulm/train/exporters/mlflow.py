"""MLflow: a tracking server, or files of this machine.

Opened by `registry` for `export_to: [mlflow]`. Where to is decided by MLflow's own variable
`MLFLOW_TRACKING_URI`; without it, it is a folder with an SQLite database beside those of the runs,
and no network is used. Invariant: a run of ours is one run of theirs, also resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import Any

from mulm.train.exporters.base import RunFacts

EXPERIMENT = "mulm"
_OUR_RUN = "mulm.run"
"""The tag by which a run is found again."""
_LONGEST_PARAM = 500


class MlflowExporter:
    """`Exporter` into one run of the experiment `EXPERIMENT`."""

    def __init__(self, run: RunFacts) -> None:
        import mlflow  # optional, and slow to import

        self._entities: Any = mlflow.entities
        folder = None if mlflow.is_tracking_uri_set() else local_folder(run)
        uri = f"sqlite:///{folder / 'mlflow.sqlite'}" if folder else None
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        self._experiment_id = self._experiment((folder / "artifacts").as_uri() if folder else None)
        self._id = self._known_run(run) or self._new_run(run)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One curve for each."""
        now_ms = int(time() * 1000)
        new = self._entities.Metric
        metrics = [new(name, value, now_ms, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def text(self, step: int, name: str, text: str) -> None:
        """As a file among the run's artifacts."""
        self._client.log_text(self._id, text, f"{name}/step-{step:08d}.txt")

    def close(self) -> None:
        """Nothing waits: each call was sent."""
        self._client.set_terminated(self._id)

    def _experiment(self, artifacts: str | None) -> str:
        known = self._client.get_experiment_by_name(EXPERIMENT)
        found: str = (
            known.experiment_id
            if known
            else self._client.create_experiment(EXPERIMENT, artifact_location=artifacts)
        )
        return found

    def _known_run(self, run: RunFacts) -> str | None:
        found = self._client.search_runs(
            [self._experiment_id], f"tags.`{_OUR_RUN}` = '{run.run_id}'", max_results=1
        )
        if not found:
            return None
        known: str = found[0].info.run_id
        self._client.update_run(known, status="RUNNING")
        return known

    def _new_run(self, run: RunFacts) -> str:
        made = self._client.create_run(
            self._experiment_id, run_name=f"{run.name} {run.run_id}", tags={_OUR_RUN: run.run_id}
        )
        params = [
            self._entities.Param(key, str(value)[:_LONGEST_PARAM])
            for key, value in run.config.items()
        ]
        self._client.log_batch(made.info.run_id, params=params)
        new: str = made.info.run_id
        return new


def local_folder(run: RunFacts) -> Path:
    """One for all runs of an installation; `mlflow ui` shows the database in it."""
    folder = run.folder.absolute().parent / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
