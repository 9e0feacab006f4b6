"""Room for the workers of a run: what can have none is refused, what others have is waited for.

Called by `jobs.train` before workers start. Nothing is reserved: of two runs that see the same
room one waits on in Ray Train, in silence. Invariant: whoever waits can be stopped, and
the run says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import ray

from jobs.boxes import Box, free_resources, roomy
from jobs.entry import JobContext
from mulm.errors import ConfigError, DeadlineError, DeviceError
from mulm.records import Phase

ROOM_TIMEOUT_S = 24 * 3600.0
"""How long a run waits for the CPUs or GPUs that another one has."""
_POLL_S = 1.0
BOXES_S = 10.0
"""How long the room of a run that has just ended may take to be free on each machine."""
_QUIET_WAIT_S = 5.0
_BEFORE_WORK: tuple[Phase, ...] = ("queued", "running")
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
) -> None:
    """Wait until each worker can be placed, and say so when that takes time.

    Raises:
        DeadlineError: it was not so within `ROOM_TIMEOUT_S`.
        StoppedError: someone asked to stop meanwhile.
    """
    name, started_s, has_told = "GPU" if device == "cuda" else "CPU", now_s(), False
    while (n_free := int(ray.available_resources().get(name, 0))) < workers:
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
