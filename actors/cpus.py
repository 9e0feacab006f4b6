"""How many CPUs this process may use: the one place that knows how to ask.

Used where a head, the threads of a worker or those of an engine are sized. macOS has no affinity to
ask for; a container may have all CPUs of its machine, and the time of a few.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """CPUs that this process may run on, and has the time of; all where nobody can say."""
    affinity = getattr(os, "sched_getaffinity", None)
    n_cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(n_cpus, _paid_for(cgroup) or n_cpus)


def _paid_for(cgroup: Path) -> int | None:
    """CPUs whose time a container has (cgroup 2, or 1); None where it is not bounded."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((cgroup / "cpu" / name).read_text().strip() for name in names)
        except OSError:
            return None
    if not quota.isdecimal() or not period.isdecimal():  # "max", or -1
        return None
    return max(1, math.ceil(int(quota) / int(period)))
