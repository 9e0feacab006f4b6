from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import jobs
from jobs.signals import signals_wait, stopping_on_signals

FOLDER = Path(jobs.__file__).parent
JOBS = [path.stem for path in sorted(FOLDER.glob("*.py")) if "return run_job(" in path.read_text()]
"""What runs as `python -m jobs.KIND`."""
SIGNAL_ITSELF = "import os, signal, time; os.kill(os.getpid(), signal.{}); time.sleep(60)"
END_AND_SIGNAL = """
import os, signal, sys
from jobs.signals import stopping_on_signals
from jobs.starting import leave_on_signals
leave_on_signals()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as Ray does
with stopping_on_signals():
    pass
os.kill(os.getpid(), signal.{})
print("its end")
"""


def test_the_first_signal_stops_and_the_rest_are_ignored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping_on_signals():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def end_slowly(done: list[str], error: Exception | None = None) -> None:
    with stopping_on_signals(), signals_wait():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        if error:
            raise error
        done.append("noted")


def test_a_signal_waits_for_the_end_of_the_block() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        end_slowly(done)
    assert done == ["noted"]


def test_an_error_of_the_block_comes_first() -> None:
    with pytest.raises(ZeroDivisionError):
        end_slowly([], ZeroDivisionError())


def test_other_threads_are_left_alone() -> None:
    ran = []

    def work() -> None:
        with stopping_on_signals(), signals_wait():
            ran.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran == [1]


def run_python(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With `tmp_path` before everything that is installed."""
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{FOLDER.parent}", "PATH": os.defpath}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(
    ("kind", "name"), [("train", "SIGTERM"), *((kind, "SIGINT") for kind in JOBS)]
)
def test_a_job_that_is_stopped_while_it_is_imported_says_so_in_a_line(
    tmp_path: Path, kind: str, name: str
) -> None:
    (tmp_path / "pydantic.py").write_text(SIGNAL_ITSELF.format(name))  # every job imports it
    done = run_python(tmp_path, "-m", f"jobs.{kind}", "--config", "none.yaml")
    assert done.stderr == "error [stopped]: cancelled before it began\n"
    assert (done.stdout, done.returncode) == ("", 130)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_job_that_has_ended_is_not_stopped(tmp_path: Path, name: str) -> None:
    done = run_python(tmp_path, "-c", END_AND_SIGNAL.format(name))
    assert (done.stdout, done.stderr, done.returncode) == ("its end\n", "", 0)
