"""A training run on islands: machines that talk now and then, come and go.

Called by `jobs.train` where the strategy is DiLoCo. Invariants: a machine that has room gets an
island as long as rows are left; an island that ends without a result is told in the run's log and
replaced, until that was in vain too often; the run is over when the leading island has stored the
model, and goes on under the same id from what the aggregator kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import ray
from ray.exceptions import RayError

from actors.outer_sync import OuterSync, start_outer_sync
from actors.train_context import TrainOrder, WorkerOutcome
from jobs.boxes import Box, draining_nodes, find_boxes, free_resources, roomy
from jobs.entry import JobContext
from jobs.fleet import MAX_LOST, Fleet
from jobs.round_watch import RoundWatch
from jobs.run_end import mulm_cause
from mulm.checkpoint_files import checkpoints, step_of
from mulm.errors import JobFailedError, MulmError, StoppedError
from mulm.home import Home
from mulm.train.settled import SettledConfig
from mulm.train.sync.aggregator import RoundPlan
from mulm.train.sync.outer_choice import choose_outer, remembered_outer
from mulm.train.sync.round_plan import round_plan

_log = logging.getLogger(__name__)

POLL_S = 0.5
ROUNDS = "rounds"
"""The folder of the aggregator's state, in that of the run."""
LAST_S = 120.0
"""How long the others are waited for when one has the result."""
STOP_TIMEOUT_S = 40.0
"""How long islands may take to end when they were told to: Ray gives a stopped job a minute."""


def train_on_islands(
    order: TrainOrder,
    config: SettledConfig,
    context: JobContext,
    watch: RoundWatch | None = None,
) -> WorkerOutcome:
    """Train until the model is stored, on all machines, or on those that a watch admits.

    Raises:
        StoppedError: someone asked to stop; the aggregator's state and a checkpoint were written.
        JobFailedError: on every machine islands were lost too often, or the aggregator died and
            cannot begin again.
        MulmError: what the islands of every machine met.
    """
    boxes = find_boxes(ray.nodes(), order.device)
    if watch:
        boxes = watch.admitted(boxes, ())
    # Where there is one machine alone, and no GPU, the islands share it: so it is tried at home.
    n_shared = order.config.workers if len(boxes) == 1 and order.device == "cpu" else 1
    n_planned = max(len(boxes) * n_shared, 1)
    folder = Home.from_env().run(order.run_id)
    n_rounds = watch.n_rounds if watch else None
    plan = plan_rounds(config, folder, n_planned, n_rounds, context)
    outer = start_outer_sync(folder / ROUNDS, plan)
    fleet = Fleet(order, outer, context, n_planned, n_shared)
    try:
        return _run(fleet, watch)
    except (StoppedError, KeyboardInterrupt):
        fleet.leave(frozenset(box.node_id for box in fleet.boxes))
        _wait_for_others(fleet, STOP_TIMEOUT_S)
        raise
    finally:
        fleet.end()
        _close(outer)


def plan_rounds(
    config: SettledConfig,
    folder: Path,
    n_planned: int,
    n_rounds: float | None,
    context: JobContext,
) -> RoundPlan:
    """The aggregator's plan; how the shared weights move is told, and stays so for the run's life.

    Args:
        config: The run's.
        folder: The run's.
        n_planned: Islands that a global batch is cut for.
        n_rounds: Of a whole run, where its speed was measured.
        context: Is told.
    """
    n_done = max((step_of(path) for path in checkpoints(folder / "checkpoints")), default=0)
    ahead = None if n_rounds is None else n_rounds * (1 - n_done / config.steps)
    step = remembered_outer(folder / ROUNDS, choose_outer(config.diloco, ahead))
    context.emit("log", text=step.text)
    return round_plan(config, n_planned, n_done, step.kind)


def _close(outer: OuterSync) -> None:
    """The end of the run is what it is, also where the last state cannot be written."""
    try:
        outer.close()
    except (MulmError, RayError) as error:
        _log.warning("the last rounds were not kept reason=%s", error)


def _run(fleet: Fleet, watch: RoundWatch | None) -> WorkerOutcome:
    while fleet.model is None:
        boxes = find_boxes(ray.nodes(), fleet.order.device)
        if watch:
            boxes = watch.admitted(boxes, fleet.boxes)
            watch.look(fleet)
        if len(boxes) == 1:
            boxes = boxes * fleet.n_shared
        draining = draining_nodes()
        fleet.leave(draining)
        if not fleet.is_ending:
            staying = [box for box in boxes if box.node_id not in draining]
            fleet.fill(roomy(staying, free_resources()))
        fleet.look()
        if fleet.model is None:  # else nothing is asked of it any more
            fleet.follow_outer()
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
        try:
            fleet.follow_outer()
        except JobFailedError as error:  # what they wait for does not come any more
            _log.warning("the islands that are left are not waited for reason=%s", error.message)
            return
        time.sleep(POLL_S)
