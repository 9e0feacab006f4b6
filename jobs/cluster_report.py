"""What the running application takes of this machine, and what it is doing.

Called by `mulm cluster show`. Invariant: reads only; a part that does not answer is told as
such, the others are told all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx
import psutil

from actors.cluster_info import ClusterInfo, read_info
from actors.job_client import JobClient
from actors.processes import Pack, is_alive
from actors.tls_trust import trust_of
from mulm.errors import MulmError
from mulm.home import Home

_ANSWER_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """One look at the application."""

    is_up: bool
    home: str
    dashboard: str | None = None
    api: str | None = None
    pid: int | None = None
    up_s: float | None = None
    processes: int | None = None
    memory_bytes: int | None = None
    """Resident, of all its processes; pages that several share count for each."""
    jobs: tuple[str, ...] | None = None
    """Runs under way as jobs; None where the dashboard does not answer."""
    http: str | None = None
    """`ready`, `not ready`, or `no answer`."""


def report(home: Home, clock: Callable[[], float] = time.time) -> ClusterReport:
    """Look at the application of a home."""
    info = read_info(home)
    if info is None or not is_alive(info.pid, info.id):
        return ClusterReport(is_up=False, home=str(home.root))
    processes = Pack(home, info.id).find()
    return ClusterReport(
        is_up=True,
        home=str(home.root),
        dashboard=info.dashboard_url,
        api=info.api_url,
        pid=info.pid,
        up_s=round(clock() - psutil.Process(info.pid).create_time(), 1),
        processes=len(processes),
        memory_bytes=_memory_bytes(processes),
        jobs=_jobs(info, home),
        http=_http(info),
    )


def _memory_bytes(processes: Sequence[psutil.Process]) -> int:
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return total


def _jobs(info: ClusterInfo, home: Home) -> tuple[str, ...] | None:
    try:
        attempts = JobClient.of(info, home).attempts()
    except MulmError:
        return None
    return tuple(sorted(name for name, one in attempts.items() if one.is_living))


def _http(info: ClusterInfo) -> str:
    try:
        with httpx.Client(
            trust_env=False, timeout=_ANSWER_TIMEOUT_S, verify=trust_of(info)
        ) as client:
            return "ready" if client.get(f"{info.api_url}/readyz").is_success else "not ready"
    except httpx.HTTPError:
        return "no answer"
