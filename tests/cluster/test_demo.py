"""The demo as a user starts it, and as a user stops it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actors.processes import Pack
from jobs import demo
from jobs.progress import Progress
from mulm.errors import StoppedError
from mulm.home import Home
from mulm.ledger import Ledger

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.cluster

_DEMO = [sys.executable, "-c", "from jobs.cli import main; main()", "demo"]
_STOP_TIMEOUT_S = 300


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


def test_the_whole_journey_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MULM_HTTP_PORT", "MULM_DASHBOARD_PORT"):
        monkeypatch.setenv(name, "0")
    shorter = tmp_path / "demo.yaml"
    shorter.write_text(demo.CONFIG.read_text().replace("steps: 450", "steps: 25"))
    assert "steps: 25" in shorter.read_text()
    monkeypatch.setattr(demo, "CONFIG", shorter)
    home = Home(tmp_path / "home")
    shown, seconds = [], []
    for _ in range(2):
        progress, out = io.StringIO(), io.StringIO()
        result = demo.run_demo(home, Progress(progress), io.StringIO(), out)
        assert result["bits_per_byte"] < result["xz_bits_per_byte"]
        assert all(f"> {prompt}\n" in out.getvalue() for prompt in demo.PROMPTS)
        assert Pack(home).find() == []
        assert not home.cluster.exists()
        shown.append(progress.getvalue())
        seconds.append(result["seconds"])
    stages = ("up", "documents", "tokenizer", "dataset", "train", "evaluate", "register", "serve")
    assert all(f"\n{stage} " in f"\n{shown[0]}" for stage in (*stages, "chat", "down"))
    assert shown[1].count("finished before") == 3
    assert seconds[1] < 0.8 * seconds[0]
    key = home.api_key.read_text().strip()
    assert home.api_key.stat().st_mode & 0o777 == 0o600
    assert key not in "".join(shown)


def test_ctrl_c_in_training_leaves_a_checkpoint_and_no_process(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    process = start_demo(home)
    assert process.stderr is not None
    shown = []
    for line in process.stderr:
        shown.append(line)
        if "train: " in line:
            break
    assert Pack(home).find(), "nothing was started: the check below would mean nothing"
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=_STOP_TIMEOUT_S)
    assert process.returncode == 130, "".join(shown) + rest
    assert f"error [{StoppedError.code}]" in rest
    assert "Traceback" not in rest
    assert Pack(home).find() == []
    assert not home.cluster.exists()

    with Ledger(home.ledger) as ledger:
        (run,) = ledger.runs("train")
    assert run.phase == "paused"
    assert list((home.run(run.id) / "checkpoints").iterdir())
