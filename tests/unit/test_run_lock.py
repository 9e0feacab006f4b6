from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mulm import run_lock as locks
from mulm.errors import ConflictError, NoSpaceError
from mulm.home import Home
from mulm.run_lock import is_held, run_lock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from mulm.home import Home
from mulm.run_lock import run_lock
with run_lock(Home(Path(sys.argv[1])), "run_1"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_at_a_time(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.0)
    assert not is_held(home, "run_1")
    for _ in range(2):
        with run_lock(home, "run_1"):
            assert is_held(home, "run_1")
            with pytest.raises(ConflictError) as caught, run_lock(home, "run_1"):
                pass
            assert f"process {os.getpid()} works on run_1" in caught.value.message
            with run_lock(home, "run_2"):
                pass
        assert not is_held(home, "run_1")


def test_a_full_disk(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(NoSpaceError), run_lock(home, "run_1"):
        pass


def test_asking_disturbs_nobody(home: Home) -> None:
    with run_lock(home, "run_1"):
        pass
    with (home.run("run_1") / "lock").open() as asking:
        assert locks._try(asking.fileno(), locks.fcntl.LOCK_SH)
        assert not is_held(home, "run_1")


def test_it_ends_with_its_process(home: Home) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home.root)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert is_held(home, "run_1")
    with pytest.raises(ConflictError, match=f"process {holder.pid} "), run_lock(home, "run_1"):
        pass
    holder.kill()
    holder.wait(10)
    holder.stdout.close()
    started_s = time.monotonic()
    with run_lock(home, "run_1"):
        assert time.monotonic() - started_s < 5
