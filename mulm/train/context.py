"""What the training loop needs from where it runs: alone, in a test, in a Ray Train worker.

`train` gets a `TrainContext` and knows nothing else about its surroundings. `LocalContext`
is the one for a single process; `actors.train_context` has the one for Ray Train.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from mulm.manifest import Manifest
from mulm.store import Store
from mulm.train.sync.outer_link import OuterLink

Emit = Callable[[str, Mapping[str, Any]], None]


class TrainContext(Protocol):
    """One worker's surroundings. All workers of a run begin with the same checkpoints."""

    @property
    def rank(self) -> int:
        """This worker's number, from 0; worker 0 alone reports and writes files."""

    @property
    def world_size(self) -> int:
        """Workers of the run; with more than one, torch.distributed is initialised."""

    @property
    def device(self) -> torch.device:
        """Where to compute."""

    @property
    def store(self) -> Store:
        """Where the dataset lies and the model goes."""

    @property
    def dataset(self) -> Manifest:
        """The dataset version, resolved."""

    @property
    def models(self) -> Mapping[str, Manifest]:
        """The models that the config refers to, by its fields: "init_from", "teacher"."""

    @property
    def folder(self) -> Path:
        """The run's own folder, for checkpoints and TensorBoard files."""

    @property
    def outer(self) -> OuterLink | None:
        """Where other islands of the run meet; None where there are none."""

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Append an event to the run; returns at once where the ledger is far."""

    def flush(self) -> None:
        """Wait until all events are durable, for seconds at most; called from another thread."""

    def deliver(self, checkpoint: Path, keep: int, spared_step: int | None) -> None:
        """Have a new checkpoint brought to where other machines find it, without waiting for it.

        Called from another thread. There, too, the newest `keep` and the spared one stay. Raises
        NoSpaceError, which an earlier one may have met.
        """

    def should_stop(self) -> bool:
        """Whether someone asked this worker to stop; asked once per step."""

    def now_s(self) -> float:
        """A clock that never goes back."""


@dataclass(frozen=True, slots=True)
class LocalContext:
    """The context of a single process, without a cluster."""

    store: Store
    dataset: Manifest
    folder: Path
    device: torch.device
    on_event: Emit
    is_stopping: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    rank: int = 0
    world_size: int = 1
    models: Mapping[str, Manifest] = field(default_factory=dict)
    outer: OuterLink | None = None

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Hand the event on; it is durable when that returns."""
        self.on_event(kind, data)

    def flush(self) -> None:
        """Nothing waits."""

    def deliver(self, checkpoint: Path, keep: int, spared_step: int | None) -> None:
        """It is where it belongs."""

    def should_stop(self) -> bool:
        """Ask the callable that was given."""
        return self.is_stopping()

    def now_s(self) -> float:
        """Read the clock that was given."""
        return self.clock()
