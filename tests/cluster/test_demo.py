"""The demo as a user starts it, and as a user stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mulm.errors import StoppedError
from mulm.home import Home
from mulm.ledger import Ledger

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

_DEMO = [sys.executable, "-c", "from jobs.cli import main; main()", "demo"]
_STOP_TIMEOUT_S = 120


def start_demo(home: Home) -> subprocess.Popen[str]:
    env = os.environ | {
        "MULM_HOME": str(home.root),
        "MULM_HTTP_PORT": "0",
        "MULM_DASHBOARD_PORT": "0",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        _DEMO, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def processes_of(home: Home) -> list[str]:
    """Command lines of living processes that were started for a home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MULM_HOME") == str(home.root):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_ctrl_c_in_training_leaves_a_checkpoint_and_no_process(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    demo = start_demo(home)
    assert demo.stderr is not None
    shown = []
    for line in demo.stderr:
        shown.append(line)
        if "train: " in line:
            break
    assert processes_of(home), "nothing was started: the check below would mean nothing"
    demo.send_signal(signal.SIGINT)
    _, rest = demo.communicate(timeout=_STOP_TIMEOUT_S)
    assert demo.returncode == 130, "".join(shown) + rest
    assert f"error [{StoppedError.code}]" in rest
    assert "Traceback" not in rest
    assert processes_of(home) == []
    assert not home.cluster.exists()

    ledger = Ledger(home.ledger)
    (run,) = ledger.runs("train")
    ledger.close()
    assert run.phase == "cancelled"
    assert list((home.run(run.id) / "checkpoints").iterdir())
