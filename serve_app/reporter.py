"""Makes an engine host's reports: the engine's numbers, its speed lately, and where it runs.

Held by the engine host. Invariant: a report costs microseconds, so it can be made every second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from serve_app.engine_report import EngineReport, Place
from serve_app.engine_thread import EngineThread
from serve_app.opened_model import OpenedModel

_STATM = Path("/proc/self/statm")


class Reporter:
    """Reports of the engines of one process.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted: dict[str, tuple[float, int]] = {}
        self._computes: dict[str, tuple[str, str]] = {}
        self._replica: str | None = None

    def note(self, opened: OpenedModel) -> None:
        """Remember how a model is computed."""
        self._computes[opened.id] = (opened.device, opened.dtype)

    def report(self, deployment: str, model_id: str, thread: EngineThread) -> EngineReport:
        """How one engine stands now."""
        stats, now_s = thread.stats(), self._clock()
        before_s, n_before = self._counted.get(thread.id, (now_s, stats.generated_tokens))
        self._counted[thread.id] = (now_s, stats.generated_tokens)
        past_s = now_s - before_s
        speed = (stats.generated_tokens - n_before) / past_s if past_s > 0 else 0.0
        device, dtype = self._computes.get(model_id, ("", ""))
        memory = _memory_bytes(device)
        place = Place(self.replica_id(), device, dtype, memory)
        return EngineReport(model_id, thread.id, stats, deployment, round(speed, 1), place)

    def replica_id(self) -> str:
        """Serve's id of this replica; empty outside of one."""
        if self._replica is None:
            self._replica = _replica_id()
        return self._replica


def _replica_id() -> str:
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        return str(serve.get_replica_context().replica_id.unique_id)
    except RayServeException:
        return ""


def _memory_bytes(device: str) -> int:
    if device not in ("", "cpu"):
        return int(torch.cuda.memory_reserved())
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not on this system
        return 0
