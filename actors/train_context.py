"""A training worker on a Ray Train cluster: its context, and the function that it runs.

`jobs.train` starts `run_worker` on every worker. Worker 0 tells the ledger what happens and
learns from it whether to stop. Invariant: the training loop never waits for the ledger,
except at a checkpoint, after which all earlier events are durable.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.exceptions import RayError

from actors.ledger_host import connect_facts
from mulm.errors import (
    ConfigError,
    CorruptError,
    MulmError,
    StoppedError,
    TokenizerMismatchError,
    TrainingDivergedError,
)
from mulm.facts import Facts
from mulm.home import Home
from mulm.log import configure_logging
from mulm.manifest import Manifest
from mulm.store import Store
from mulm.train.config import TrainConfig
from mulm.train.loop import train

log = logging.getLogger(__name__)

EVENT_INTERVAL_S = 0.5
FLUSH_TIMEOUT_S = 10.0
STOP_PHASES = frozenset({"pausing", "cancelled"})
# Every worker raises these at the same step: they are an outcome, not a lost worker, so
# starting the group again would not help.
AGREED_ERRORS = (
    StoppedError,
    TrainingDivergedError,
    CorruptError,
    ConfigError,
    TokenizerMismatchError,
)


@dataclass(frozen=True, slots=True)
class TrainOrder:
    """What `jobs.train` tells each worker."""

    config: TrainConfig
    run_id: str
    home: str
    dataset: Manifest
    device: str


@dataclass(frozen=True, slots=True)
class WorkerOutcome:
    """What a worker returns: the fields of a `TrainResult`, or an error all workers met."""

    result: dict[str, Any] | None = None
    error: MulmError | None = None


class EventSender:
    """Carries events to the ledger in a thread of its own, and a stop request back."""

    def __init__(self, facts: Facts, run_id: str, interval_s: float = EVENT_INTERVAL_S) -> None:
        self._facts, self._run_id, self._interval_s = facts, run_id, interval_s
        self._waiting: list[tuple[str, Mapping[str, Any]]] = []
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._is_closing = threading.Event()
        self._is_stop_requested = threading.Event()
        self._thread = threading.Thread(target=self._work, name="events", daemon=True)
        self._thread.start()

    @property
    def is_stop_requested(self) -> bool:
        """Whether the run's phase says that it should stop."""
        return self._is_stop_requested.is_set()

    def add(self, kind: str, data: Mapping[str, Any]) -> None:
        """Note an event; returns at once."""
        with self._lock:
            self._waiting.append((kind, data))

    def flush(self) -> bool:
        """Send what waits; False if the ledger does not answer. Events stay in order."""
        with self._sending:
            with self._lock:
                events, self._waiting = self._waiting, []
            if not events:
                return True
            try:
                self._facts.append_events(self._run_id, events)
            except (RayError, MulmError) as error:
                log.warning("events wait for the ledger run=%s error=%s", self._run_id, error)
                with self._lock:
                    self._waiting = events + self._waiting
                return False
        return True

    def close(self) -> None:
        """Send the rest, with a deadline, and end the thread."""
        self._is_closing.set()
        self._thread.join(FLUSH_TIMEOUT_S)
        deadline_s = time.monotonic() + FLUSH_TIMEOUT_S
        while not self.flush() and time.monotonic() < deadline_s:
            time.sleep(self._interval_s)

    def _work(self) -> None:
        while not self._is_closing.wait(self._interval_s):
            self.flush()
            self._look_for_stop()

    def _look_for_stop(self) -> None:
        try:
            phase = self._facts.run(self._run_id).phase
        except (RayError, MulmError) as error:
            log.warning("the ledger does not answer run=%s error=%s", self._run_id, error)
            return
        if phase in STOP_PHASES:
            self._is_stop_requested.set()


@dataclass(frozen=True, slots=True)
class RayTrainContext:
    """`TrainContext` of one Ray Train worker."""

    store: Store
    dataset: Manifest
    folder: Path
    device: torch.device
    rank: int
    world_size: int
    sender: EventSender | None

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Pass an event on; a "checkpoint" waits until all are durable."""
        if self.sender:
            self.sender.add(kind, data)
            if kind == "checkpoint":
                self.sender.flush()

    def should_stop(self) -> bool:
        """What worker 0 heard from the ledger; the loop tells the other workers."""
        return self.sender is not None and self.sender.is_stop_requested

    def now_s(self) -> float:
        """The machine's monotonic clock."""
        return time.monotonic()


def run_worker(settings: dict[str, Any]) -> WorkerOutcome:
    """What Ray Train runs on each worker, with `{"order": TrainOrder}`."""
    order: TrainOrder = settings["order"]
    configure_logging()
    place = ray.train.get_context()
    torch.set_num_threads(threads_per_worker(place.get_local_world_size()))
    rank = place.get_world_rank()
    home = Home(Path(order.home))
    sender = EventSender(connect_facts(), order.run_id) if rank == 0 else None
    context = RayTrainContext(
        store=Store(home.store),
        dataset=order.dataset,
        folder=home.run(order.run_id),
        device=worker_device(order.device, place.get_local_rank()),
        rank=rank,
        world_size=place.get_world_size(),
        sender=sender,
    )
    try:
        return WorkerOutcome(result=asdict(train(order.config, context)))
    except AGREED_ERRORS as error:
        return WorkerOutcome(error=error)
    finally:
        if sender:
            sender.close()


def threads_per_worker(n_local_workers: int) -> int:
    """Threads for torch, so that the workers of a machine share its cores without a fight."""
    return max(1, len(os.sched_getaffinity(0)) // n_local_workers)


def worker_device(device: str, local_rank: int) -> torch.device:
    """This worker's device; Ray shows each process the GPUs of its whole machine group."""
    if device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())
