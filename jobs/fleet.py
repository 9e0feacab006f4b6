"""The islands of a run on the cluster: started, watched, told to go, ended.

Owned by `jobs.train_islands`. Invariants: what becomes of an island is told in the run's log; an
island's error is its machine's alone, which is given up after `MAX_LOST` in a row.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from actors.island import IslandPlace, island_worker
from actors.outer_sync import OuterSync
from actors.train_context import TrainOrder, WorkerOutcome
from jobs.boxes import Box
from jobs.entry import JobContext
from jobs.run_end import mulm_cause
from mulm.errors import StoppedError
from mulm.train.sync.outer_link import OuterLink

MAX_LOST = 3
"""Islands of one machine that may end without a result, one after the other."""
FORGIVEN_S = 600.0
"""An island that lived so long is not counted among those."""
LAST_S = 120.0
"""How long is waited for what should be there at once."""


@dataclass(slots=True)
class RunningIsland:
    """An island that was started, by its handles in the cluster."""

    name: str
    box: Box
    workers: list[Any]
    outcomes: list[Any]
    started_s: float

    @property
    def has_ended(self) -> bool:
        """Whether all workers have, or one with an error: the others may wait for it for long."""
        n_workers = len(self.outcomes)
        ready, _ = ray.wait(self.outcomes, num_returns=n_workers, timeout=0)
        return len(ready) == n_workers or _has_failed(ready)

    def end(self) -> None:
        """End its workers, by force."""
        for worker in self.workers:
            ray.kill(worker)


@dataclass(slots=True)
class Fleet:
    """The islands of a run."""

    order: TrainOrder
    outer: OuterSync
    context: JobContext
    n_planned: int
    n_shared: int = 1
    islands: list[RunningIsland] = field(default_factory=list)
    results: list[WorkerOutcome] = field(default_factory=list)
    n_started: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    error: BaseException | None = None

    @property
    def boxes(self) -> list[Box]:
        """Where islands are."""
        return [island.box for island in self.islands]

    @property
    def is_ending(self) -> bool:
        """Whether an island found all rows done, and others are there to finish."""
        return bool(self.islands) and any(result.result for result in self.results)

    @property
    def model(self) -> WorkerOutcome | None:
        """The result of the island that stored the model."""
        return next((r for r in self.results if r.result and r.result["model_id"]), None)

    def fill(self, boxes: Sequence[Box]) -> None:
        """An island for each place that has none and is not given up."""
        places = [box.node_id for box in boxes]
        taken = [box.node_id for box in self.boxes]
        for box in boxes:
            is_free = taken.count(box.node_id) < places.count(box.node_id)
            if is_free and self.lost.get(box.node_id, 0) < MAX_LOST:
                self._start(box)
                taken.append(box.node_id)

    def look(self) -> None:
        """Take in what ended."""
        for island in list(self.islands):
            if island.has_ended:
                self.islands.remove(island)
                self._ended(island)

    def follow_outer(self) -> None:
        """Tell all islands where the aggregator is, if it came back elsewhere.

        Raises:
            JobFailedError: it has died, and cannot begin again.
        """
        if not self.outer.look():
            return
        for island in self.islands:
            island.workers[0].meet_at.remote(self.outer.port)
        self.context.emit("log", text=f"the aggregator is at another port now: {self.outer.port}")

    def leave(self, node_ids: frozenset[str]) -> None:
        """Tell the islands on these machines to go."""
        for island in self.islands:
            if island.box.node_id in node_ids:
                for worker in island.workers:
                    worker.leave.remote()

    def end(self) -> None:
        """End what is left, by force."""
        for island in self.islands:
            island.end()
        self.islands.clear()

    def _start(self, box: Box) -> None:
        name = f"island-{self.n_started:03d}"
        self.n_started += 1
        workers = [island_worker(box.node_id, box.resources) for _ in range(box.n_workers)]
        link = OuterLink(self.outer.host, self.outer.port, self.outer.secret, name, self.n_planned)
        store = None
        try:
            if box.n_workers > 1:
                store = ray.get(workers[0].open_store.remote(), timeout=LAST_S)
        except RayError as error:
            self._count_lost(box, f"{name} did not start on {box.address}: {error}")
            return
        outcomes = [
            worker.run.remote(
                self.order,
                IslandPlace(rank, box.n_workers, box.n_workers * self.n_shared, store),
                link,
            )
            for rank, worker in enumerate(workers)
        ]
        self.islands.append(RunningIsland(name, box, workers, outcomes, time.monotonic()))
        text = f"{name} begins on {box.address}" + _and_workers(box.n_workers)
        self.context.emit("log", text=text)

    def _ended(self, island: RunningIsland) -> None:
        try:
            outcome: WorkerOutcome = ray.get(island.outcomes, timeout=LAST_S)[0]
        except RayError as error:
            self._lost(island, error)
        else:
            self._took(island, outcome)
        island.end()

    def _lost(self, island: RunningIsland, error: RayError) -> None:
        self.error, cause = error, mulm_cause(error)
        why = cause.message if cause else " ".join(str(error).split())[:200]
        if time.monotonic() - island.started_s > FORGIVEN_S:
            self.lost.pop(island.box.node_id, None)
        self._count_lost(island.box, f"{island.name} on {island.box.address} is lost: {why}")
        self.outer.lose(island.name)

    def _took(self, island: RunningIsland, outcome: WorkerOutcome) -> None:
        if outcome.error and not isinstance(outcome.error, StoppedError):
            self.error = outcome.error  # this island's alone: the others go on
            text = f"{island.name} on {island.box.address} failed: {outcome.error.message}"
            self._count_lost(island.box, text)
            return
        self.results.append(outcome)
        how = outcome.error.message if outcome.error else "all rows are done"
        self.context.emit("log", text=f"{island.name} ended: {how}")

    def _count_lost(self, box: Box, text: str) -> None:
        self.lost[box.node_id] = self.lost.get(box.node_id, 0) + 1
        self.context.emit("log", text=text)


def _and_workers(count: int) -> str:
    return f", {count} workers" if count > 1 else ""


def _has_failed(ready: Sequence[Any]) -> bool:
    """Whether one of these workers ended with an error: the others may wait for it for long."""
    try:
        ray.get(list(ready))
    except RayError:
        return True
    return False
