"""A training worker on a Ray Train cluster: its context, and the function that it runs.

`jobs.train` starts `run_worker` on every worker. Worker 0 tells the ledger what happens and Ray's
metrics the newest numbers, and learns from the ledger whether to stop; each learns whether its
machine is to go. Invariant: the training loop never waits for the ledger; the thread that writes
checkpoints does, for `FLUSH_TIMEOUT_S` at most.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch

from actors.courier import Courier, find_courier
from actors.cpus import usable_cpus
from actors.delivery import FINISH_S, Delivery
from actors.event_sender import EventSender
from actors.ledger_host import connect_facts
from actors.process_group import wait_for_all
from actors.regroup import RegroupWatch, watch_regroup
from actors.store_host import cluster_store
from actors.train_gauges import TrainGauges
from mulm.errors import (
    MulmError,
    StoppedError,
    TrainingDivergedError,
)
from mulm.home import Home
from mulm.log import configure_logging
from mulm.manifest import Manifest
from mulm.model.compiled import keep_compiled_in
from mulm.store import Store
from mulm.train.config import TrainConfig
from mulm.train.device import choose_device
from mulm.train.host_allocator import keep_freed_memory
from mulm.train.loop import train
from mulm.train.sync.outer_link import OuterLink

log = logging.getLogger(__name__)

FLUSH_TIMEOUT_S = 10.0
# Every worker meets these at the same step, so each is let finish what it does: worker 0 may
# still be writing. Any other error ends the group at once, since the others wait for a peer.
AGREED_ERRORS = (StoppedError, TrainingDivergedError)


@dataclass(frozen=True, slots=True)
class TrainOrder:
    """What `jobs.train` tells each worker."""

    config: TrainConfig
    run_id: str
    dataset: Manifest
    models: Mapping[str, Manifest]
    device: str


@dataclass(frozen=True, slots=True)
class WorkerOutcome:
    """What a worker returns: the fields of a `TrainResult`, or an error all workers met."""

    result: dict[str, Any] | None = None
    error: MulmError | None = None


@dataclass(frozen=True, slots=True)
class RayTrainContext:
    """`TrainContext` of one Ray Train worker."""

    store: Store
    dataset: Manifest
    models: Mapping[str, Manifest]
    folder: Path
    device: torch.device
    rank: int
    world_size: int
    sender: EventSender | None
    gauges: TrainGauges | None = None
    outer: OuterLink | None = None
    courier: Courier | None = None
    delivery: Delivery | None = None
    regroup: RegroupWatch | None = None

    def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Pass an event on, in the memory of this process."""
        if self.sender:
            self.sender.add(kind, data)
        if self.gauges and kind == "metric":
            self.gauges.tell(data)

    def flush(self) -> None:
        """Wait until the ledger has all events, or say that some wait in memory."""
        if self.sender and not self.sender.flush(FLUSH_TIMEOUT_S):
            log.warning("the ledger is slow; events wait in memory waited_s=%s", FLUSH_TIMEOUT_S)

    def deliver(self, checkpoint: Path, keep: int, spared_step: int | None) -> None:
        """Have it brought to the head meanwhile, unless this is the head's disk.

        Where the head does not answer it stays here alone: the run says so, and the next one goes.
        """
        if self.delivery:
            self.delivery.add(checkpoint, keep, spared_step, self._say)

    def finish_delivery(self) -> None:
        """Wait until the last checkpoint is where the run goes on from. Raises NoSpaceError."""
        if self.delivery and not self.delivery.finish():
            self._say(f"the last checkpoint did not come to the head within {FINISH_S:.0f} s")

    def _say(self, text: str) -> None:
        self.emit("log", {"text": text})

    def should_stop(self) -> bool:
        """What this worker heard: from the ledger, of its machine; the loop tells the others."""
        if self.regroup and self.regroup.is_due:
            return True
        return self.sender is not None and self.sender.is_stop_requested

    def now_s(self) -> float:
        """The machine's monotonic clock."""
        return time.monotonic()


def run_worker(settings: dict[str, Any]) -> WorkerOutcome:
    """What Ray Train runs on each worker, with `{"order": TrainOrder}`.

    Raises:
        MulmError: what only this worker may have met; the group ends with it.
    """
    order: TrainOrder = settings["order"]
    place = ray.train.get_context()
    rank = place.get_world_rank()
    begin_worker(place.get_local_world_size())
    sender = EventSender(connect_facts(), order.run_id) if rank == 0 else None
    context = RayTrainContext(
        **surroundings(order, rank),
        device=worker_device(order.device, place.get_local_rank()),
        rank=rank,
        world_size=place.get_world_size(),
        sender=sender,
        gauges=TrainGauges(order.run_id, order.config.name) if rank == 0 else None,
        regroup=watch_regroup(order.run_id),
    )
    if context.world_size > 1:
        wait_for_all(context.world_size)
    return work(order, context)


def work(order: TrainOrder, context: RayTrainContext) -> WorkerOutcome:
    """Train, and bring the model to the head; ends the sender of events."""
    try:
        result = train(order.config, context)
        context.finish_delivery()
        if context.courier and result.model_id:
            context.courier.send_version(context.store, result.model_id)
        return WorkerOutcome(result=asdict(result))
    except AGREED_ERRORS as error:
        context.finish_delivery()
        return WorkerOutcome(error=error)
    finally:
        if context.regroup:
            context.regroup.close()
        if context.sender:
            context.sender.close()


def begin_worker(n_local_workers: int) -> None:
    """What every worker's process does first."""
    configure_logging()
    torch.set_num_threads(threads_per_worker(n_local_workers))
    keep_compiled_in(Home.from_env().compiled)
    keep_freed_memory()


def surroundings(order: TrainOrder, rank: int) -> dict[str, Any]:
    """The part of a context that the order and this machine's home give.

    A machine may have a home of its own; what is to be read is fetched into it from the head first.
    """
    home = Home.from_env()
    store, courier = cluster_store(home), find_courier(home, order.run_id)
    if courier:
        courier.fetch(is_whole_shelf=rank == 0)
        for version in (order.dataset, *order.models.values()):
            store.paths(version.blobs)
    return {
        "store": store,
        "dataset": order.dataset,
        "models": order.models,
        "folder": home.run(order.run_id),
        "courier": courier,
        "delivery": Delivery(courier.send_checkpoint) if courier else None,
    }


def threads_per_worker(n_local_workers: int) -> int:
    """Threads for torch, so that the workers of a machine share its cores without a fight."""
    return max(1, usable_cpus() // n_local_workers)


def worker_device(device: str, local_rank: int) -> torch.device:
    """This worker's device; Ray shows each process the GPUs of its whole machine group.

    Raises:
        DeviceError: torch finds no GPU here, whatever the cluster says it has.
    """
    if device == "cpu":
        return torch.device("cpu")
    choose_device("cuda")
    return torch.device("cuda", local_rank % torch.cuda.device_count())
