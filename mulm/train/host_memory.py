"""What a machine cannot hold is refused on a CPU: the kernel would kill it without a word.

Called by objectives on a µLM and by the preview. Invariant: refused is only what could not run in
all of the machine's memory, whatever other work takes now. A GPU says by itself that it is full.
"""

from __future__ import annotations

import os
from pathlib import Path

from mulm.errors import DeviceError
from mulm.model.config import MicroLMConfig
from mulm.train.memory import step_memory
from mulm.train.placement import EVERYTHING_HERE, step_choices
from mulm.train.settled import SettledConfig

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def require_host_memory(
    config: SettledConfig,
    shape: MicroLMConfig,
    precision: str,
    frozen_bytes: int = 0,
    host_bytes: int | None = None,
) -> None:
    """Ask by arithmetic whether a step with one row at once fits beside frozen models.

    Raises:
        DeviceError: it does not.
    """
    total = own_bytes() if host_bytes is None else host_bytes
    choices = step_choices(config, "cpu", precision, 1, EVERYTHING_HERE)
    needed = frozen_bytes + step_memory(shape, choices).peak_bytes
    if needed > total:
        raise DeviceError(
            f"a step needs {needed / 1e9:.1f} GB of memory, this machine has {total / 1e9:.1f} GB",
            hint="choose a smaller preset or model; `mulm model plan` shows what a size needs",
        )


def own_bytes(cgroup_limit: Path = _CGROUP_LIMIT) -> int:
    """The memory that processes here may use: the machine's, or less in a container."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(cgroup_limit.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return physical
