"""Checks of `mulm doctor` on the running application, and on what a killed one left."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil

from actors.cluster_info import read_info
from actors.dashboard import Dashboard
from actors.ports import choose_port
from actors.processes import TEMP_DIR_VARIABLE, Pack, is_alive
from jobs.doctor_finding import Surroundings, Verdict, fault, fine, warning
from mulm.errors import MulmError
from mulm.settings import Settings, variable_of

_ANSWER_TIMEOUT_S = 5.0


def cluster_file(machine: Surroundings) -> Verdict:
    """Whether what says that the application is up is true."""
    if not machine.home.cluster.exists():
        return fine("the application is not up")
    if is_up(machine):
        return fine("the application is up")
    info = read_info(machine.home)
    why = "cannot be read" if info is None else f"names process {info.pid}, which is gone"
    return fault(
        f"{str(machine.home.cluster)!r} {why}", "`mulm down` clears it away, then `mulm up`"
    )


def answers(machine: Surroundings) -> Verdict:
    """Whether a running application answers."""
    info = read_info(machine.home)
    if info is None or not is_up(machine):
        return fine("the application is not up")
    try:
        Dashboard.of(info, machine.home).request("GET", "/api/jobs/", timeout_s=_ANSWER_TIMEOUT_S)
    except MulmError as error:
        return fault(
            f"the application is up and does not answer: {error}", "`mulm down`, `mulm up`"
        )
    return fine(info.dashboard_url)


def leftovers(machine: Surroundings) -> Verdict:
    """Whether processes of a cluster that ended are still there."""
    if is_up(machine):
        return fine("the application is up")
    left = Pack(machine.home).find()
    if not left:
        return fine("none")
    return fault(
        f"{len(left)} processes of a cluster that ended are left, such as {left[0].pid}",
        "`mulm down` ends them",
    )


def temp_folders(machine: Surroundings) -> Verdict:
    """Whether clusters that were killed left their folders."""
    in_use = _folders_in_use()
    info = read_info(machine.home)
    in_use |= {info.temp_dir} if info else set()
    folder = Path(machine.env.get("TMPDIR") or tempfile.gettempdir())
    left = [
        path
        for path in sorted(folder.glob("mulm-" + "[0-9a-f]" * 12))
        if str(path) not in in_use and path.lstat().st_uid == machine.user_id and path.is_dir()
    ]
    if not left:
        return fine("none")
    return warning(
        f"{len(left)} folders of clusters that were killed are left in {folder}",
        f"rm -r {' '.join(map(str, left[:3]))}{' ...' * (len(left) > 3)}",
    )


def ports(machine: Surroundings) -> Verdict:
    """Whether the ports that `mulm up` takes are free."""
    if is_up(machine):
        return fine("the application has them")
    try:
        settings = Settings.from_env(machine.env)
        wanted = {"http_port": settings.http_host, "dashboard_port": "127.0.0.1"}
        for field, host in wanted.items():
            choose_port(host, getattr(settings, field), variable_of(field))
    except MulmError as error:
        return fault(error.message, error.hint)
    taken = [str(port) if port else "any" for port in (settings.http_port, settings.dashboard_port)]
    return fine(f"free: {', '.join(taken)}")


def is_up(machine: Surroundings) -> bool:
    """Whether the process of the application lives."""
    info = read_info(machine.home)
    return info is not None and is_alive(info.pid, info.id)


def _folders_in_use() -> set[str]:
    found = set()
    for process in psutil.process_iter():
        try:
            found.add(process.environ().get(TEMP_DIR_VARIABLE, ""))
        except (psutil.Error, OSError):  # not ours to see, or just gone
            continue
    return found
