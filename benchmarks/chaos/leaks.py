"""What a fault may leave behind: processes, shared memory, temporary files, file descriptors.

Called by the cases before and after a fault. Invariant: it compares like with like, processes by
their kind and descriptors of processes that lived through it.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.chaos.victims import kind_of
from benchmarks.chaos.world import World
from mulm.gc import GRACE_S, plan_gc
from mulm.ledger import Ledger
from mulm.store import Store

_SHARED = Path("/dev/shm")  # noqa: S108 - it is only listed
_MAPPED = re.compile(rf"{_SHARED}/(\S+)")
_SETTLE_S = 45.0
_MORE_DESCRIPTORS = 24
"""A process may open connections to one that is new."""
_COMES_AND_GOES = frozenset(
    {"ray::IDLE", "ray::IDLE_SpillWorker", "ray::_AutoscalingCoordinatorActor"}
)
"""Workers that wait for work, and the one that Ray keeps from a cluster's first run on."""


@dataclass(frozen=True, slots=True)
class Belongings:
    """What the application holds at one moment."""

    processes: Counter[str]
    descriptors: dict[tuple[int, float], int]
    shared: frozenset[str]

    @classmethod
    def of(cls, world: World) -> Belongings:
        """Now."""
        found = world.pack.find()
        kinds = Counter(kind for p in found if (kind := kind_of(p)) not in _COMES_AND_GOES)
        return cls(
            kinds,
            {key: n for p in found for key, n in _descriptors(p)},
            frozenset(os.listdir(_SHARED)) if _SHARED.exists() else frozenset(),
        )


def left_behind(world: World, before: Belongings, settle_s: float = _SETTLE_S) -> list[str]:
    """What is there beyond what was there before, after things have settled."""
    end_s = time.monotonic() + settle_s
    while (more := _more(before, Belongings.of(world))) and time.monotonic() < end_s:
        time.sleep(1.0)
    return more + _uncollectable(world)


def orphans(names: Collection[str]) -> list[str]:
    """Those in shared memory that no process has open or mapped."""
    used = set[str]()
    for process in Path("/proc").glob("[0-9]*") if names else ():
        with suppress(OSError):  # it has ended
            used |= set(_MAPPED.findall((process / "maps").read_text()))
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
            used |= {Path(link).name for link in links if link.startswith(str(_SHARED))}
    return sorted(name for name in names if name not in used)


def _more(before: Belongings, now: Belongings) -> list[str]:
    more = now.processes - before.processes
    told = [f"{n} more of the processes {kind}" for kind, n in more.items()]
    told += [
        f"{n - before.descriptors[key]} more descriptors in process {key[0]}"
        for key, n in now.descriptors.items()
        if key in before.descriptors and n - before.descriptors[key] > _MORE_DESCRIPTORS
    ]
    told += [f"shared memory {name}" for name in orphans(now.shared - before.shared)]
    return told


def _uncollectable(world: World) -> list[str]:
    """Temporary files of the store that `mulm gc` would not remove when they are old."""
    store = Store(world.home.store)
    with Ledger(world.home.ledger) as ledger:
        plan = plan_gc(store, ledger, time.time() + 3 * GRACE_S)
    if plan.unended_runs:
        return []  # what is newer than they are stays for their sake
    known = {file.path for file in plan.leftovers}
    found = [path for path in store.root.rglob("*.tmp") if path not in known]
    return [f"nobody removes {path.relative_to(store.root)}" for path in found if path.exists()]


def _descriptors(process: psutil.Process) -> list[tuple[tuple[int, float], int]]:
    try:
        return [((process.pid, process.create_time()), process.num_fds())]
    except psutil.Error:
        return []
