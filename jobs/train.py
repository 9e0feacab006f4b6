"""Train a model: `python -m jobs.train --config FILE`, run as a Ray job.

Resolves one config and one dataset version, starts a Ray Train group and publishes the model.
Invariants: the same run id continues from its own newest checkpoint, on any number of workers; once
a machine was lost or has left, the run goes on with those that are there.
"""

from __future__ import annotations

from jobs.starting import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()  # what is imported from here on takes seconds

import logging
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from actors.process_group import TIMEOUT_S, HomeTorchConfig
from actors.regroup import ask_regroup, forget_regroup
from actors.train_context import TrainOrder, WorkerOutcome, run_worker
from jobs.boxes import Box, find_boxes, resources_of_worker, staying_nodes
from jobs.entry import JobContext, run_job
from jobs.group_size import GroupSize
from jobs.growth import Growth
from jobs.losses import PLACE_S, After, fit_again_if_lost, newest_step
from jobs.room import check_room, rest, wait_for_boxes, wait_for_rest, wait_for_room
from jobs.round_watch import RoundWatch
from jobs.run_end import mulm_cause
from jobs.train_islands import ROUNDS, train_on_islands
from jobs.way import choose_way, start_survey, with_choice, with_workers
from mulm.errors import (
    ConflictError,
    JobFailedError,
    MulmError,
    StoppedError,
)
from mulm.home import Home
from mulm.runs.identity import train_identity
from mulm.runs.transitions import UNDER_WAY
from mulm.train.config import TrainConfig
from mulm.train.device import choose_device
from mulm.train.exporters.registry import require_exporters
from mulm.train.local import check_run, publish_model, resolve_dataset, resolve_models
from mulm.train.result import TrainResult
from mulm.train.settled import SettledConfig
from mulm.train.settling import run_shape

_log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 45.0
_RAY_TRAIN_ENV = {
    # Ray Train looks after its workers twice a second instead of every two seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(PLACE_S),
    # `actors.regroup` looks itself, every second: Ray's question is a barrier of all workers.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return run_job("train", arguments, TrainConfig, run_training, train_identity)


def run_training(context: JobContext, config: TrainConfig) -> dict[str, Any]:
    """Train on the cluster that this driver has joined; returns the run's result.

    Raises:
        NotFoundError: no such dataset or model, or a file of it is missing.
        TokenizerMismatchError: a model was trained with another tokenizer than the dataset's.
        CorruptError, DataError: the dataset is damaged or too small for one window.
        ConfigError: more workers than the cluster has room for, or `export_to` needs a package.
        DeviceError: the device that was asked for is absent.
        DeadlineError: other runs had the room for too long.
        StoppedError: someone asked to stop; the run can go on from its checkpoint.
        JobFailedError: workers were lost more often than is worth retrying.
    """
    require_exporters(config.export_to)
    dataset = resolve_dataset(config, context.store, context.facts)
    resources = ray.cluster_resources()
    device, reason = choose_device(config.device, has_cuda=resources.get("GPU", 0) > 0)
    check_room(config.workers, device, resources)
    models = resolve_models(config, dataset, context.store, context.facts)
    settled = check_run(config, dataset, models, context.store)
    context.emit("log", text=f"device {device}: {reason}")
    order = TrainOrder(config, context.run_id, dataset, models, device)

    if config.sync == "diloco":
        wait_for_room(1, device, context)
        outcome = train_on_islands(order, settled.config, context)
    else:
        size = GroupSize(config.workers)
        outcome = fit_again_if_lost(
            lambda after: _train(order, settled.config, context, after, size), context
        )
    if outcome.error:
        raise outcome.error
    assert outcome.result is not None
    return publish_model(config, TrainResult(**outcome.result), context.facts)


def _train(
    order: TrainOrder,
    settled: SettledConfig,
    context: JobContext,
    after: After,
    size: GroupSize,
) -> WorkerOutcome:
    """In the way that pays, where there are machines to choose from, else in step.

    After a loss with as many workers as have room, the number that was asked for at most.
    """
    config, device = order.config, order.device
    is_lost = after == "loss"
    size.look(newest_step(context), has_lost=is_lost)
    if after == "nothing":
        growth, n_workers = None, config.workers
    else:
        n_workers = wait_for_rest(size.most, device, context, is_awaited=is_lost)
        growth = _growth(order, n_workers, size.most)
    size.begin(n_workers)
    if config.sync == "auto" and config.workers > 1:
        boxes = find_boxes(staying_nodes(), device)
        if len(boxes) > 1:
            free = wait_for_boxes(boxes, device, context)
            return _train_in_best_way(order, settled, context, free, growth)
    if after == "nothing":
        wait_for_room(n_workers, device, context)
    return _train_in_step(with_workers(order, n_workers), context, growth)


def _growth(order: TrainOrder, n_workers: int, most: int) -> Growth | None:
    """What a run that has lost some waits for while it goes on; None where it lacks nobody."""
    device = order.device
    if order.config.sync == "auto" and order.config.workers > 1:
        n_boxes = len(find_boxes(staying_nodes(), device))
        return Growth(lambda: len(find_boxes(staying_nodes(), device)), n_boxes)
    return Growth(lambda: rest(device), 0) if n_workers < most else None


def _train_in_best_way(
    order: TrainOrder,
    settled: SettledConfig,
    context: JobContext,
    boxes: Sequence[Box],
    growth: Growth | None,
) -> WorkerOutcome:
    shape = run_shape(settled, context.store, order.dataset, order.models)
    survey = start_survey(order, settled, shape, context)
    try:
        choice, machines = choose_way(survey, boxes)
        chosen = with_choice(order, choice)
        if choice.way.strategy == "diloco":
            in_rounds = settled.model_copy(update={"diloco": chosen.config.diloco})
            watch = RoundWatch(survey, choice, machines)
            return train_on_islands(chosen, in_rounds, context, watch)
    finally:
        survey.end()
    # What islands kept is older than the checkpoint that is gone on from now.
    shutil.rmtree(context.home.run(order.run_id) / ROUNDS, ignore_errors=True)
    counts = {machine.name: machine.n_workers for machine in choice.way.machines}
    nodes = [box.node_id for box in boxes for _ in range(counts.get(box.address, 0))]
    return _train_in_step(chosen, context, growth, nodes)


def _train_in_step(
    order: TrainOrder, context: JobContext, growth: Growth | None, nodes: Sequence[str] = ()
) -> WorkerOutcome:
    """Gradients are summed every step; each worker on its node, where they are named."""
    try:
        forget_regroup(order.run_id)
    except RayError as error:
        raise JobFailedError(f"the cluster does not answer: {error}") from None
    return _fit(_make_trainer(order, context.home, nodes), context, growth)


def _make_trainer(order: TrainOrder, home: Home, nodes: Sequence[str]) -> Any:
    os.environ.update({k: v for k, v in _RAY_TRAIN_ENV.items() if k not in os.environ})
    on_gpu = order.device == "cuda"
    return TorchTrainer(
        run_worker,
        train_loop_config={"order": order},
        torch_config=HomeTorchConfig(backend="nccl" if on_gpu else "gloo", timeout_s=TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=order.config.workers,
            use_gpu=on_gpu,
            resources_per_worker=resources_of_worker(order.device),
            label_selector=[{"ray.io/node-id": node} for node in nodes] or None,
        ),
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(home.run(order.run_id)),
            # Ray would wait for as many workers as there were: see `fit_again_if_lost`.
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=0
            ),
        ),
    )


def _fit(trainer: Any, context: JobContext, growth: Growth | None = None) -> WorkerOutcome:
    """Wait for the group in a thread, so that signals reach us and not Ray Train.

    Where there is room for a larger one, it is asked to stop for that.
    """
    ended: list[WorkerOutcome | BaseException] = []
    is_over = threading.Event()

    def work() -> None:
        try:
            ended.append(trainer.fit().return_value)
        except BaseException as error:  # noqa: BLE001 - carried to the main thread
            ended.append(error)
        finally:
            is_over.set()

    threading.Thread(target=work, name="ray-train", daemon=True).start()
    try:
        _wait(is_over, context, growth)
    except (StoppedError, KeyboardInterrupt):
        _stop(is_over, context)
        raise
    outcome = ended[0]
    if isinstance(outcome, BaseException):
        raise explain_failure(outcome) from outcome
    return outcome


def _wait(is_over: threading.Event, context: JobContext, growth: Growth | None) -> None:
    """Wait in short pieces: Python delivers signals between them.

    Not by joining the thread: a signal in the middle of `join` makes Python 3.11 and 3.12 take a
    running thread for an ended one, and then nobody waits for the last checkpoint.
    """
    while not is_over.wait(0.2):
        if growth and growth.is_due():
            try:
                ask_regroup(context.run_id)
                text = "there is room for more: workers stop, to go on together"
                context.emit("log", text=text)
            except (RayError, MulmError) as error:  # they train on; it is asked again
                _log.warning("the workers were not told of more room error=%s", error)


def _stop(is_over: threading.Event, context: JobContext) -> None:
    """Ask the workers for a checkpoint, unless a request in the ledger has, and let them write it.

    A signal pauses the run. Workers look into the ledger for that, and whoever follows the run sees
    what it waits for.
    """
    with suppress(ConflictError):
        context.facts.set_phase(context.run_id, "pausing", only_from=UNDER_WAY)
    is_over.wait(STOP_TIMEOUT_S)


def explain_failure(error: BaseException) -> MulmError:
    """The one of our errors that made a worker fail, else that the job failed."""
    cause = mulm_cause(error)
    if cause:
        return cause
    dead = sorted(getattr(error, "worker_failures", {}))
    who = f"worker {' and '.join(map(str, dead))}" if dead else "its workers"
    why = "" if dead else f": {' '.join(str(error).split())[:300]}"
    return JobFailedError(
        f"training lost {who}{why}",
        hint="run the same command again to go on from the newest checkpoint",
    )


if __name__ == "__main__":
    sys.exit(main())
