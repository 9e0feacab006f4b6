"""The processes of one cluster: found by a mark in their environment, and ended.

Called by `actors.cluster`. Invariant: only processes that carry the mark of this home, or share a
session with one that does, are ever sent a signal; all others are left alone.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from actors.cluster_info import MARKER
from mulm.home import Home

TEMP_DIR_VARIABLE = "MULM_TEMP_DIR"
"""Beside the mark: the folder that the cluster lives in."""

_POLL_S = 0.05
_KILL_ROUNDS = 100


def spawn(command: Sequence[str], env: Mapping[str, str], log: Path) -> int:
    """Start a process in a session of its own, so that Ctrl-C reaches us and not it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        command[0],
        list(command),
        dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
    )


def is_alive(pid: int, cluster_id: str) -> bool:
    """Whether that process runs and carries the mark (so it is not another one of that number)."""
    try:
        return _env_of(psutil.Process(pid)).get(MARKER) == cluster_id
    except psutil.NoSuchProcess:
        return False


def exit_status(pid: int) -> int | None:
    """How a child of ours ended; None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


class Pack:
    """All processes of the clusters of one home.

    Ray's Python processes write their title over their environment, so the mark finds only
    some of them; the others share a session with a marked one, or descend from it.
    """

    def __init__(self, home: Home, cluster_id: str | None = None) -> None:
        self._home = str(home.root)
        self._cluster_id = cluster_id
        self._sessions: set[int] = set()

    def find(self) -> list[psutil.Process]:
        """Those that live now, without ourselves."""
        marked = self.marked()
        self._sessions |= {sid for p in marked if (sid := _session_of(p.pid))} - {os.getsid(0)}
        found = {process.pid: process for process in marked}
        for process in psutil.process_iter():
            if process.pid not in found and _session_of(process.pid) in self._sessions:
                found[process.pid] = process
        return [p for p in found.values() if p.pid != os.getpid() and not _is_zombie(p)]

    def marked(self) -> list[psutil.Process]:
        """Those whose mark can be read."""
        return [p for p in psutil.process_iter() if self._is_ours(_env_of(p))]

    def temp_dirs(self) -> set[Path]:
        """The folders in which they live."""
        named = {_env_of(process).get(TEMP_DIR_VARIABLE, "") for process in self.marked()}
        return {Path(name) for name in named if name}

    def end(self, grace_s: float) -> None:
        """Ask all to end; kill what is left after `grace_s` seconds, and what was born since."""
        asked = self.find()
        _signal(asked, signal.SIGTERM)
        deadline_s = time.monotonic() + grace_s
        while (left := self.find()) and time.monotonic() < deadline_s:
            psutil.wait_procs(left, timeout=_POLL_S)
        for _ in range(_KILL_ROUNDS):
            if not left:
                break
            _signal(left, signal.SIGKILL)
            psutil.wait_procs(left, timeout=_POLL_S)
            left = self.find()
        psutil.wait_procs(asked, timeout=0)  # children of ours stay zombies until they are asked

    def _is_ours(self, env: Mapping[str, str]) -> bool:
        if self._cluster_id is not None and env.get(MARKER) == self._cluster_id:
            return True
        return MARKER in env and env.get("MULM_HOME") == self._home


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _env_of(process: psutil.Process) -> dict[str, str]:
    """The environment of a process; empty when it is gone, a zombie or not ours to see."""
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True
