"""Room for the workers of a run: what can have none is refused, what others have is waited for.

Called by `jobs.train` before workers start. Nothing is reserved: of two runs that see the same
room one waits on in Ray Train, in silence. Invariant: whoever waits can be stopped, and
the run says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import ray

from jobs.boxes import Box, free_resources, n_fitting, roomy, staying_nodes
from jobs.entry import JobContext
from mulm.errors import ConfigError, DeadlineError, DeviceError
from mulm.records import Phase

ROOM_TIMEOUT_S = 24 * 3600.0
"""How long a run waits for the CPUs or GPUs that another one has."""
_POLL_S = 1.0
BOXES_S = 10.0
"""How long the room of a run that has just ended may take to be free on each machine."""
BACK_S = 20.0
"""How long a run waits for a machine that it has lost: Ray that starts again there is back by then,
and a minute after the loss the others train."""
_QUIET_WAIT_S = 5.0
_BEFORE_WORK: tuple[Phase, ...] = ("queued", "running")
_REST_HINT = "more are taken in when their machines are back"
_HINT = "another run has the rest until it ends; Ctrl-C stops this one"


def check_room(workers: int, device: str, resources: Mapping[str, float]) -> None:
    """Refuse what could only wait for ever.

    Raises:
        ConfigError: more workers than CPUs.
        DeviceError: more workers than GPUs.
    """
    n_cpus, n_gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if workers > n_cpus:
        raise ConfigError(
            f"workers: {workers} are more than the {n_cpus} CPUs of the cluster",
            hint=f"set workers to {max(1, n_cpus)} or less, or add a machine",
        )
    if device == "cuda" and workers > n_gpus:
        raise DeviceError(
            f"workers: {workers} are more than the {n_gpus} GPUs of the cluster",
            hint=f"set workers to {max(1, n_gpus)} or less, or device: cpu",
        )


def wait_for_room(
    workers: int,
    device: str,
    context: JobContext,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    count: Callable[[str], int] | None = None,
) -> None:
    """Wait until each worker can be placed, and say so when that takes time.

    Args:
        workers: How many.
        device: Where they compute.
        context: The run, which is told.
        now_s: A clock.
        sleep: Waits.
        count: How many of a device are free; all of the cluster's are counted without.

    Raises:
        DeadlineError: it was not so within `ROOM_TIMEOUT_S`.
        StoppedError: someone asked to stop meanwhile.
    """
    name, started_s, has_told = "GPU" if device == "cuda" else "CPU", now_s(), False
    count = count or (lambda _device: int(ray.available_resources().get(name, 0)))
    while (n_free := count(device)) < workers:
        waited_s = now_s() - started_s
        text = f"{workers} {name}s are needed and {n_free} are free"
        if waited_s > ROOM_TIMEOUT_S:
            raise DeadlineError(f"{text}, for {ROOM_TIMEOUT_S / 3600:.0f} hours", hint=_HINT)
        if waited_s > _QUIET_WAIT_S and not has_told:
            context.move("queued", *_BEFORE_WORK)
            context.emit("log", text=f"waiting: {text}; {_HINT}")
            has_told = True
        sleep(_POLL_S)
    if has_told:
        context.move("running", *_BEFORE_WORK)


def wait_for_rest(
    workers: int,
    device: str,
    context: JobContext,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    *,
    is_awaited: bool = True,
) -> int:
    """With how many workers a run goes on that has lost some: all, if they have room soon, or less.

    Args:
        workers: How many there are to be.
        device: Where they compute.
        context: The run, which is told.
        now_s: A clock.
        sleep: Waits.
        is_awaited: Whether machines that are away may be back soon; else only what the workers
            before have had is waited for, until it is free again.

    Raises:
        DeadlineError, StoppedError: see `wait_for_room`; one worker at least is waited for.
    """
    end_s = now_s() + (BACK_S if is_awaited else BOXES_S)
    while (n := rest(device)) < workers and now_s() < end_s:
        if n and not is_awaited and n >= min(workers, capacity(device)):
            break
        sleep(_POLL_S)
    if not n:
        wait_for_room(1, device, context, now_s, sleep, rest)
        n = max(1, rest(device))
    if n < workers:
        context.emit("log", text=f"going on with {n} of {workers} workers; {_REST_HINT}")
    return min(n, workers)


def rest(device: str) -> int:
    """How many workers have room now on the machines that stay."""
    free = free_resources()
    return n_fitting(
        {node["NodeID"]: free.get(node["NodeID"], {}) for node in staying_nodes()}, device
    )


def capacity(device: str) -> int:
    """How many would have room on the machines that stay if nobody else had any."""
    return n_fitting({node["NodeID"]: node["Resources"] for node in staying_nodes()}, device)


def wait_for_boxes(
    boxes: Sequence[Box],
    device: str,
    context: JobContext,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Box]:
    """Wait for room on one of the machines at least; those that have some, and say who has none.

    Raises:
        DeadlineError, StoppedError: see `wait_for_room`.
    """
    found: list[Box] = []
    while not found:
        wait_for_room(1, device, context, now_s, sleep)
        end_s = now_s() + BOXES_S
        while (found := roomy(boxes, free_resources())) != list(boxes) and now_s() < end_s:
            sleep(_POLL_S)
    n_workers = {box.address: box.n_workers for box in found}
    for box in boxes:
        if (n := n_workers.get(box.address, 0)) < box.n_workers:
            text = f"{box.address}: others leave room for {n} of {box.n_workers} workers"
            context.emit("log", text=text if n else f"{box.address} is left out: it has no room")
    return found
