"""A worker of an island: its actor, and the training loop's context in it.

`jobs.train_islands` starts one for each worker of each island. Invariants: whoever dies here costs
the other islands nothing; what an island has to say in the run's log begins with its name; told to
leave, it ends between two steps, and the others have its rows.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import ray
from torch import distributed

from actors.event_sender import EventSender
from actors.ledger_host import connect_facts
from actors.process_group import choose_interface, open_store, point_to_store
from actors.train_context import (
    RayTrainContext,
    TrainOrder,
    WorkerOutcome,
    begin_worker,
    surroundings,
    work,
    worker_device,
)
from actors.train_gauges import TrainGauges
from mulm.train.sync.link import Link, measure_link
from mulm.train.sync.outer_link import OuterLink

ISLAND_TIMEOUT_S = 3600.0
"""How long workers of an island wait for their first, which may wait for the aggregator."""


@dataclass(frozen=True, slots=True)
class IslandPlace:
    """Which worker of an island this is, and where it meets the others of it."""

    rank: int = 0
    n_workers: int = 1
    n_beside: int = 1
    """Workers on this machine, also of other islands: they share its cores."""
    store: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class IslandContext(RayTrainContext):
    """`TrainContext` of a worker of an island."""

    leaving: threading.Event = field(default_factory=threading.Event)

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """As elsewhere; lines of the log say whose they are."""
        if kind == "log" and self.outer:
            data = {**data, "text": f"{self.outer.island}: {data.get('text', '')}"}
        RayTrainContext.emit(self, kind, data)

    def should_stop(self) -> bool:
        """The whole run is to stop, or this island."""
        return self.leaving.is_set() or RayTrainContext.should_stop(self)


class IslandWorker:
    """Plain class behind the actor; `run` is under way while the others are called."""

    def __init__(self) -> None:
        self._leaving = threading.Event()
        self._link: OuterLink | None = None
        self._port: int | None = None

    def open_store(self) -> tuple[str, int]:
        """Where the workers of this island meet; called on its worker 0."""
        choose_interface()
        return open_store()

    def leave(self) -> None:
        """End after the step that is under way."""
        self._leaving.set()

    def meet_at(self, port: int) -> None:
        """The aggregator is at another port; also before `run` has begun."""
        self._port = port
        if self._link is not None:
            self._link.port = port

    def measure_link(self, host: str, port: int, secret: str) -> Link:
        """How fast the link of this machine is now, beside what it carries.

        Raises:
            NotRunningError, AuthError: see `measure_link`.
        """
        return measure_link(host, port, secret)

    def run(self, order: TrainOrder, place: IslandPlace, link: OuterLink) -> WorkerOutcome:
        """Train to the end of the run, or until told to leave.

        Raises:
            MulmError: what only this island has met.
        """
        self._link = link
        if self._port is not None:
            link.port = self._port
        begin_worker(place.n_beside)
        if place.n_workers > 1:
            _join_group(order, place)
        sender = EventSender(connect_facts(), order.run_id) if place.rank == 0 else None
        context = IslandContext(
            **surroundings(order, place.rank),
            device=worker_device(order.device, place.rank),
            rank=place.rank,
            world_size=place.n_workers,
            sender=sender,
            gauges=TrainGauges(order.run_id, order.config.name) if sender else None,
            outer=link,
            leaving=self._leaving,
        )
        return work(order, context)


def _join_group(order: TrainOrder, place: IslandPlace) -> None:
    assert place.store is not None
    choose_interface()
    point_to_store(*place.store)
    os.environ.update(RANK=str(place.rank), WORLD_SIZE=str(place.n_workers))
    distributed.init_process_group(
        "nccl" if order.device == "cuda" else "gloo",
        init_method="env://",
        rank=place.rank,
        world_size=place.n_workers,
        timeout=timedelta(seconds=ISLAND_TIMEOUT_S),
    )


def island_worker(node_id: str, resources: Mapping[str, float]) -> Any:
    """A handle of a new worker on a machine; it is never moved nor started again."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return (
        ray.remote(IslandWorker)
        .options(
            num_cpus=resources.get("CPU", 0), num_gpus=resources.get("GPU", 0),
            max_concurrency=3,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        .remote()
    )  # fmt: skip
