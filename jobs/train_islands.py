"""A training run on islands: machines that talk now and then, come and go.

Called by `jobs.train` where the strategy is DiLoCo. Invariants: a machine that has room gets an
island as long as rows are left; an island that ends without a result is told in the run's log and
replaced, until that was in vain too often; the run is over when the leading island has stored the
model, and goes on under the same id from what the aggregator kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from actors.island import IslandPlace, island_worker
from actors.outer_sync import OuterSync, start_outer_sync
from actors.train_context import TrainOrder, WorkerOutcome
from jobs.entry import JobContext
from jobs.run_end import mulm_cause
from mulm.errors import JobFailedError, MulmError, StoppedError
from mulm.home import Home
from mulm.train.settled import SettledConfig
from mulm.train.sync.outer_link import OuterLink
from mulm.train.sync.round_plan import round_plan

_log = logging.getLogger(__name__)

POLL_S = 0.5
MAX_LOST = 3
"""Islands of one machine that may end without a result, one after the other."""
FORGIVEN_S = 600.0
"""An island that lived so long is not counted among those."""
LAST_S = 120.0
"""How long the others are waited for when one has the result."""
STOP_TIMEOUT_S = 40.0
"""How long islands may take to end when they were told to: Ray gives a stopped job a minute."""


@dataclass(frozen=True, slots=True)
class Box:
    """A machine that can train: its id in the cluster, its address, its workers' resources."""

    node_id: str
    address: str
    n_workers: int
    resources: Mapping[str, float]


@dataclass(slots=True)
class Island:
    """An island that was started."""

    name: str
    box: Box
    workers: list[Any]
    outcomes: list[Any]
    started_s: float


@dataclass(slots=True)
class Fleet:
    """The islands of a run."""

    order: TrainOrder
    outer: OuterSync
    context: JobContext
    n_planned: int
    n_shared: int = 1
    islands: list[Island] = field(default_factory=list)
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
            n_workers = len(island.outcomes)
            ready, _ = ray.wait(island.outcomes, num_returns=n_workers, timeout=0)
            if len(ready) == n_workers or _has_failed(ready):
                self.islands.remove(island)
                self._ended(island)

    def leave(self, node_ids: frozenset[str]) -> None:
        """Tell the islands on these machines to go."""
        for island in self.islands:
            if island.box.node_id in node_ids:
                for worker in island.workers:
                    worker.leave.remote()

    def end(self) -> None:
        """End what is left, by force."""
        for island in self.islands:
            for worker in island.workers:
                ray.kill(worker)
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
        except (RayError, GetTimeoutError) as error:
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
        self.islands.append(Island(name, box, workers, outcomes, time.monotonic()))
        text = f"{name} begins on {box.address}" + _and_workers(box.n_workers)
        self.context.emit("log", text=text)

    def _ended(self, island: Island) -> None:
        try:
            outcome: WorkerOutcome = ray.get(island.outcomes, timeout=LAST_S)[0]
        except (RayError, GetTimeoutError) as error:
            self.error = error
            cause = mulm_cause(error)
            why = cause.message if cause else " ".join(str(error).split())[:200]
            if time.monotonic() - island.started_s > FORGIVEN_S:
                self.lost.pop(island.box.node_id, None)
            self._count_lost(island.box, f"{island.name} on {island.box.address} is lost: {why}")
            for worker in island.workers:
                ray.kill(worker)
            return
        if outcome.error and not isinstance(outcome.error, StoppedError):
            self.error = outcome.error  # this island's alone: the others go on
            text = f"{island.name} on {island.box.address} failed: {outcome.error.message}"
            self._count_lost(island.box, text)
        else:
            self.results.append(outcome)
            how = outcome.error.message if outcome.error else "all rows are done"
            self.context.emit("log", text=f"{island.name} ended: {how}")
        for worker in island.workers:
            ray.kill(worker)

    def _count_lost(self, box: Box, text: str) -> None:
        self.lost[box.node_id] = self.lost.get(box.node_id, 0) + 1
        self.context.emit("log", text=text)


def train_on_islands(
    order: TrainOrder, config: SettledConfig, context: JobContext
) -> WorkerOutcome:
    """Train until the model is stored.

    Raises:
        StoppedError: someone asked to stop; the aggregator's state and a checkpoint were written.
        JobFailedError: on every machine islands were lost too often.
        MulmError: what the islands of every machine met.
    """
    boxes = find_boxes(ray.nodes(), order.device)
    # Where there is one machine alone, and no GPU, the islands share it: so it is tried at home.
    n_shared = order.config.workers if len(boxes) == 1 and order.device == "cpu" else 1
    n_planned = max(len(boxes) * n_shared, 1)
    folder = Home.from_env().run(order.run_id) / "rounds"
    outer = start_outer_sync(folder, round_plan(config, n_planned))
    fleet = Fleet(order, outer, context, n_planned, n_shared)
    try:
        return _run(fleet)
    except (StoppedError, KeyboardInterrupt):
        fleet.leave(frozenset(box.node_id for box in fleet.boxes))
        _wait_for_others(fleet, STOP_TIMEOUT_S)
        raise
    finally:
        fleet.end()
        _close(outer)


def _close(outer: OuterSync) -> None:
    """The end of the run is what it is, also where the last state cannot be written."""
    try:
        outer.close()
    except (MulmError, RayError) as error:
        _log.warning("the last rounds were not kept reason=%s", error)


def _has_failed(ready: Sequence[Any]) -> bool:
    """Whether one of these workers ended with an error: the others may wait for it for long."""
    try:
        ray.get(list(ready))
    except RayError:
        return True
    return False


def _run(fleet: Fleet) -> WorkerOutcome:
    while fleet.model is None:
        boxes = find_boxes(ray.nodes(), fleet.order.device)
        if len(boxes) == 1:
            boxes = boxes * fleet.n_shared
        draining = draining_nodes()
        fleet.leave(draining)
        if not fleet.is_ending:
            fleet.fill([box for box in boxes if box.node_id not in draining])
        fleet.look()
        _require_hope(fleet, boxes)
        time.sleep(POLL_S)
    _wait_for_others(fleet, LAST_S)
    model = fleet.model
    assert model is not None
    return model


def _require_hope(fleet: Fleet, boxes: Sequence[Box]) -> None:
    """End where every machine that is there was tried in vain."""
    if fleet.islands or fleet.model:
        return
    if boxes and all(fleet.lost.get(box.node_id, 0) >= MAX_LOST for box in boxes):
        cause = mulm_cause(fleet.error) if fleet.error else None
        if cause:
            raise cause
        raise JobFailedError(
            "training lost its islands too often",
            hint="`mulm runs logs` says why; run the same command again to go on",
        )


def _wait_for_others(fleet: Fleet, patience_s: float) -> None:
    until_s = time.monotonic() + patience_s
    while fleet.islands and time.monotonic() < until_s:
        fleet.look()
        time.sleep(POLL_S)


def find_boxes(nodes: Sequence[Mapping[str, Any]], device: str) -> list[Box]:
    """Where islands belong: an island for each machine, of all its GPUs.

    The head comes first: its island leads, and has the store beside it.
    """
    name = "GPU" if device == "cuda" else "CPU"
    alive = [node for node in nodes if node.get("Alive") and node["Resources"].get(name, 0) >= 1]
    alive.sort(key=lambda node: ("node:__internal_head__" not in node["Resources"], node["NodeID"]))
    return [_box(node, name) for node in alive]


def _box(node: Mapping[str, Any], name: str) -> Box:
    n_workers = int(node["Resources"]["GPU"]) if name == "GPU" else 1
    resources = {"CPU": 1.0, "GPU": 1.0} if name == "GPU" else {"CPU": 1.0}
    return Box(str(node["NodeID"]), str(node.get("NodeManagerAddress")), n_workers, resources)


def _and_workers(count: int) -> str:
    return f", {count} workers" if count > 1 else ""


def draining_nodes() -> frozenset[str]:
    """The machines whose owners want them back."""
    return frozenset(ray._private.state.state.get_draining_nodes() or {})
