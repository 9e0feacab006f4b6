"""How many CPUs this process may use: the one place that knows how to ask.

Used where a head or the threads of a worker are sized. macOS has no affinity to ask for.
"""

from __future__ import annotations

import os


def usable_cpus() -> int:
    """CPUs that this process may run on; all of the machine where nobody can say."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
