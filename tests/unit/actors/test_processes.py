from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from actors.cluster_info import MARKER
from actors.processes import TEMP_DIR_VARIABLE, Pack, exit_status, is_alive, spawn
from mulm.home import Home

SLEEP = [sys.executable, "-S", "-E", "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable, "-S", "-E", "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN);"
    " print('up', flush=True); time.sleep(60)",
]  # fmt: skip
CHILD = [  # loses its mark, as Ray's titled processes do, but stays in the session
    sys.executable, "-S", "-E", "-c",
    "import os, time, sys; os.posix_spawn(sys.executable, [sys.executable, '-S', '-c',"
    " 'import time; time.sleep(60)'], {}); time.sleep(60)",
]  # fmt: skip


def mark(home: Home, cluster_id: str = "c1") -> dict[str, str]:
    return {MARKER: cluster_id, "MULM_HOME": str(home.root), TEMP_DIR_VARIABLE: "/tmp/mulm-x"}


def wait_until(condition: object, timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_only_the_marked_are_ended(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    ours = spawn(SLEEP, mark(home), tmp_path / "log")
    theirs = spawn(SLEEP, mark(other, "c2"), tmp_path / "log")
    unmarked = spawn(SLEEP, {"MULM_HOME": str(home.root)}, tmp_path / "log")
    try:
        wait_until(lambda: is_alive(ours, "c1"))
        pack = Pack(home)
        assert [p.pid for p in pack.find()] == [ours]
        assert pack.temp_dirs() == {Path("/tmp/mulm-x")}
        pack.end(grace_s=5.0)
        assert not psutil.pid_exists(ours)
        assert exit_status(theirs) is None
        assert exit_status(unmarked) is None
    finally:
        for pid in (theirs, unmarked):
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def test_the_cluster_id_finds_what_another_path_started(home: Home, tmp_path: Path) -> None:
    pid = spawn(SLEEP, mark(Home(tmp_path / "link")), tmp_path / "log")
    wait_until(lambda: is_alive(pid, "c1"))
    assert not is_alive(pid, "c2")
    assert Pack(home).find() == []
    Pack(home, "c1").end(grace_s=5.0)
    assert not psutil.pid_exists(pid)
    assert not is_alive(pid, "c1")


def test_the_stubborn_are_killed(home: Home, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pid = spawn(STUBBORN, mark(home), log)
    wait_until(lambda: log.exists() and "up" in log.read_text())
    Pack(home).end(grace_s=0.1)
    assert not psutil.pid_exists(pid)


def test_those_without_a_readable_mark_are_found_by_their_session(
    home: Home, tmp_path: Path
) -> None:
    pid = spawn(CHILD, mark(home), tmp_path / "log")
    pack = Pack(home)
    wait_until(lambda: len(pack.find()) == 2)
    child = next(p.pid for p in pack.find() if p.pid != pid)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert [p.pid for p in pack.find()] == [child]
    pack.end(grace_s=5.0)
    wait_until(lambda: pack.find() == [])


def test_spawn_reports_the_exit(home: Home, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pid = spawn([sys.executable, "-c", "import sys; print('hello'); sys.exit(3)"], {}, log)
    status = None
    while status is None:
        status = exit_status(pid)
    assert status == 3
    assert log.read_text() == "hello\n"
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("pid", [os.getpid(), 1], ids=["we", "the system"])
def test_we_and_the_system_are_never_found(home: Home, pid: int) -> None:
    assert pid not in [p.pid for p in Pack(home).find()]
