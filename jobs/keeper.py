"""Brings the application back when its cluster ends without being told to: `python -m jobs.keeper`.

Started by `jobs.up.start` beside the cluster, one for each life of it. Ray's head ends when one of
its processes dies, or stays as a shell without them, and nobody else would start it again.
Invariants: what `mulm down` ended stays down, and so does what another `mulm up` replaced; after
`MAX_RETURNS` returns within `WINDOW_S` it gives up and says so in `MULM_HOME/keeper.log`. While it
waits it has nothing of ours in memory but what reads the cluster's file.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from actors.cluster_info import MARKER, ClusterInfo, ray_env, read_info
from actors.processes import exit_status, is_alive, spawn
from mulm.errors import MulmError
from mulm.home import Home
from mulm.settings import Settings

_log = logging.getLogger(__name__)

MAX_RETURNS = 5
WINDOW_S = 600.0
_POLL_S = 0.5
_PAUSES_S = (0.0, 1.0, 3.0, 10.0, 30.0)
"""Before each try to bring it up again, such as on a disk that is full for a moment."""

_VITAL = ("/gcs_server", "/raylet/raylet", "/dashboard/dashboard.py")
"""In the command lines of the head's processes without which nothing works."""

BringUp = Callable[[Sequence[float], bool], object]
"""Starts the application and its next keeper, which is told when it has returned before.

The first time it goes on with what the head knew of its cluster; where that is in vain, without.
"""


def start_keeper(
    home: Home, settings: Settings, info: ClusterInfo, returned_s: Sequence[float] = ()
) -> int:
    """Have a process look after the cluster `info`; returns its id."""
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH", "")])]
    env = {
        **os.environ,
        **ray_env(home),
        **with_its_ports(settings, info).to_env(),
        MARKER: info.id,
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, "-m", "jobs.keeper", json.dumps(list(returned_s))]
    return spawn(command, env, home.root / "keeper.log")


def with_its_ports(settings: Settings, info: ClusterInfo) -> Settings:
    """Settings by which clients find the application again where it was."""
    dashboard_port = int(info.dashboard_url.rpartition(":")[2])
    return settings.model_copy(
        update={"http_port": info.http_port, "dashboard_port": dashboard_port}
    )


def keep(
    home: Home,
    cluster_id: str,
    returned_s: Sequence[float],
    bring_up: BringUp,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> bool:
    """Wait for the end of a cluster; returns whether the application was brought back.

    Args:
        home: Its home.
        cluster_id: Which life of the application this is.
        returned_s: When it was brought back before.
        bring_up: Does so.
        sleep: Waits some seconds.
        clock: The time.
    """
    parts: list[psutil.Process] = []
    while True:
        info = read_info(home)
        if info is None or info.id != cluster_id:
            return False  # it was ended, or another life has begun
        parts = parts or parts_of(info)
        if not is_alive(info.pid, info.id) or not all(part.is_running() for part in parts):
            break
        sleep(_POLL_S)
    with suppress(ChildProcessError):
        exit_status(info.pid)
    lately = [at_s for at_s in returned_s if clock() - at_s < WINDOW_S]
    if len(lately) >= MAX_RETURNS:
        _log.error("the cluster ended again and stays down returns=%d", len(lately))
        return False
    return _return([*lately, clock()], bring_up, sleep)


def parts_of(info: ClusterInfo) -> list[psutil.Process]:
    """The processes of the head without which nothing works; none when it is gone."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(info.pid).children()
        return [p for p in children if any(mark in _line(p) for mark in _VITAL)]
    return []


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _return(returned_s: Sequence[float], bring_up: BringUp, sleep: Callable[[float], None]) -> bool:
    for number, pause_s in enumerate(_PAUSES_S):
        sleep(pause_s)
        _log.warning("the cluster has ended without being told to; it is started again")
        try:
            bring_up(returned_s, number == 0)
        except MulmError as error:
            _log.error("it did not start reason=%s", error.message)
        else:
            return True
    _log.error("the application stays down tries=%d", len(_PAUSES_S))
    return False


def main(argv: Sequence[str]) -> int:
    """Keep the cluster whose mark this process carries; the exit code says whether it returned."""
    from mulm.log import configure_logging

    configure_logging()
    home, settings = Home.from_env(), Settings.from_env()

    def bring_up(returned_s: Sequence[float], goes_on: bool) -> object:
        from actors.cluster import down
        from jobs.up import start

        down(home)  # what is left of the old one
        return start(home, settings, returned_s, goes_on=goes_on)

    return 0 if keep(home, os.environ[MARKER], json.loads(argv[0]), bring_up) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
