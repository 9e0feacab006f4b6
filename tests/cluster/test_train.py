"""Training with two Ray Train workers: killed, stopped and wrongly asked for."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from actors.cluster_info import ray_env
from actors.processes import Pack
from jobs.exit_codes import exit_code
from jobs.up import start, stop
from mulm.errors import (
    ConfigError,
    CorruptError,
    DataError,
    DeviceError,
    JobFailedError,
    NotRunningError,
    StoppedError,
)
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.model.checkpoint import checkpoints
from mulm.records import Event
from mulm.settings import Settings
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train.metrics import OF_THE_MACHINE

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
DEADLINE_S = 400.0
STEPS = 400
"""Some seconds of work: whoever is killed at the latest of these steps has not ended before."""
LATEST_KILL = 80
SEED = int(os.environ.get("MULM_TEST_SEED", "1"))


class Training:
    """The driver process of a training run, as `ray job submit` starts it."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self.home = cluster.home
        self.env = {
            **os.environ, **ray_env(cluster.home), "RAY_ADDRESS": cluster.info.gcs_address
        }  # fmt: skip
        self.folder = folder
        self.drivers: dict[str, subprocess.Popen[str]] = {}

    def command(self, run_id: str, **changes: Any) -> list[str]:
        config = {
            "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": STEPS, "workers": 2,
            "batch_tokens": 128, "seq_len": 16, "log_every": 1, "validate_every": 100,
            "checkpoint_every": 10, "keep_checkpoints": 2, "device": "cpu",
            "balance": False, "precision": "fp32",
        }  # fmt: skip
        path = self.folder / f"{run_id}.json"
        path.write_text(json.dumps(config | changes))
        return [sys.executable, "-m", "jobs.train", "--config", str(path), "--run", run_id]

    def finish(self, run_id: str, **changes: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(run_id, **changes),
            env=self.env, capture_output=True, text=True, timeout=DEADLINE_S,
        )  # fmt: skip

    @contextmanager
    def started(self, run_id: str, **changes: Any) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            self.command(run_id, **changes),
            env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.drivers[run_id] = process
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()

    def events(self, run_id: str) -> list[Event]:
        ledger = Ledger(self.home.ledger)
        try:
            events: list[Event] = []
            while more := ledger.events(run_id, after=len(events)):
                events += more
            return events
        finally:
            ledger.close()

    def wait_for_checkpoint(self, run_id: str, step: int) -> None:
        end_s = time.monotonic() + DEADLINE_S
        folder = self.home.run(run_id) / "checkpoints"
        is_over = False
        while not any(path.name >= f"step-{step:08d}" for path in checkpoints(folder)):
            if is_over:
                pytest.fail(f"no checkpoint appeared\n{self._told(run_id)}")
            time.sleep(0.02)
            is_over = time.monotonic() > end_s or self.drivers[run_id].poll() is not None

    def _told(self, run_id: str) -> str:
        """The end of what a driver and its run have said; the driver is ended for it."""
        driver = self.drivers[run_id]
        driver.kill()
        printed = "its children hold the pipe"
        with suppress(subprocess.TimeoutExpired):
            _, printed = driver.communicate(timeout=10)
        events = [f"{event.kind} {event.data}" for event in self.events(run_id)[-20:]]
        return "\n".join([*events, printed[-4000:]])

    def curve(self, run_id: str, after_seq: int = 0) -> dict[int, dict[str, float]]:
        """What was measured after each step, without times; a step measured twice must agree."""
        numbers: dict[int, dict[str, float]] = {}
        for event in self.events(run_id):
            if event.kind == "metric" and event.seq > after_seq:
                data = {k: v for k, v in event.data.items() if k not in OF_THE_MACHINE}
                numbers.setdefault(data["step"], {}).update(data)
        return numbers


@pytest.fixture
def training(cluster: Any, tmp_path: Path) -> Training:
    store, ledger = Store(cluster.home.store), Ledger(cluster.home.ledger)
    ledger.publish("dataset", "tiny", tiny_dataset(store).id)
    ledger.close()
    return Training(cluster, tmp_path)


def result_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_killed_driver_resumes_bit_for_bit(training: Training) -> None:
    whole = result_of(training.finish("run_whole"))
    step = random.Random(SEED).randint(10, LATEST_KILL)
    print(f"killed at the checkpoint from step {step}: MULM_TEST_SEED={SEED}")
    with training.started("run_cut") as driver:
        training.wait_for_checkpoint("run_cut", step)
        driver.send_signal(signal.SIGKILL)
        assert driver.wait(10) == -signal.SIGKILL
    resumed = result_of(training.finish("run_cut"))
    assert resumed["model_id"] == whole["model_id"]
    # What workers had on its way when the driver died comes before it goes on.
    begun = [event for event in training.events("run_cut") if event.kind == "resumed"]
    starts = [event.data["step"] for event in begun]
    assert starts
    assert 10 <= starts[0] < STEPS
    expected, after = training.curve("run_whole"), training.curve("run_cut", begun[0].seq)
    assert sorted(after) == list(range(starts[0] + 1, STEPS + 1))
    assert after == {step: expected[step] for step in after}
    assert training.curve("run_cut").items() <= expected.items()


def test_killed_worker_costs_only_time(training: Training) -> None:
    whole = result_of(training.finish("run_whole"))
    with training.started("run_worker") as driver:
        training.wait_for_checkpoint("run_worker", 20)
        random.Random(SEED).choice(workers_of(training)).send_signal(signal.SIGKILL)
        _, errors = driver.communicate(timeout=DEADLINE_S)
        assert driver.returncode == 0, errors
    assert any(event.kind == "resumed" for event in training.events("run_worker"))
    assert training.curve("run_worker") == training.curve("run_whole")
    ledger = Ledger(training.home.ledger)
    assert (ledger.run("run_worker").result or {})["model_id"] == whole["model_id"]
    ledger.close()


def test_stopped_run_goes_on(training: Training) -> None:
    with training.started("run_stopped") as driver:
        training.wait_for_checkpoint("run_stopped", 10)
        addresses = {c.laddr.ip.removeprefix("::ffff:") for c in listeners_of(training)}
        assert addresses == {"127.0.0.1"}
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=DEADLINE_S)
        assert driver.returncode == exit_code(StoppedError("stopped"))
    ledger = Ledger(training.home.ledger)
    assert ledger.run("run_stopped").phase == "paused"
    ledger.close()
    newest = checkpoints(training.home.run("run_stopped") / "checkpoints")[-1].name
    result_of(training.finish("run_stopped"))
    resumed = [e.data["step"] for e in training.events("run_stopped") if e.kind == "resumed"]
    assert resumed == [int(newest.removeprefix("step-"))]


def test_begun_by_one_worker_it_is_ended_by_two(training: Training) -> None:
    """The other way round is tested without Ray."""
    result_of(training.finish("run_whole"))
    with training.started("run_grown", workers=1) as driver:
        training.wait_for_checkpoint("run_grown", 10)
        driver.send_signal(signal.SIGTERM)
        driver.communicate(timeout=DEADLINE_S)
        assert driver.returncode == exit_code(StoppedError("stopped"))
    stopped_at = len(training.events("run_grown"))
    result_of(training.finish("run_grown", workers=2))
    # The same global batches: each step has the loss of the uninterrupted run, up to sums' order.
    expected, after = training.curve("run_whole"), training.curve("run_grown", stopped_at)
    (began,) = (e.data["step"] for e in training.events("run_grown") if e.kind == "resumed")
    assert sorted(after) == list(range(began + 1, STEPS + 1))
    for step in range(began + 1, began + 20):
        assert after[step]["loss"] == pytest.approx(expected[step]["loss"], rel=1e-3)


def test_a_power_cut_costs_only_time(training: Training, tmp_path: Path) -> None:
    whole = result_of(training.finish("run_whole"))
    home, settings = Home(tmp_path / "home"), Settings(http_port=0, dashboard_port=0, n_cpus=2)
    info, pack = start(home, settings), Pack(home)
    try:
        with Ledger(home.ledger) as ledger:
            ledger.publish("dataset", "tiny", tiny_dataset(Store(home.store)).id)
        own = Training(SimpleNamespace(home=home, info=info), tmp_path)
        own.command("config")
        mulm = [sys.executable, "-c", "from jobs.cli import main; main()"]
        command = [*mulm, "train", str(tmp_path / "config.json"), "--json"]
        env = own.env | {"MULM_HOME": str(home.root), "PYTHONPATH": str(ROOT)}
        asking = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        run_id = wait_for_run(home)
        own.drivers[run_id] = asking
        own.wait_for_checkpoint(run_id, 20)
        for process in pack.find():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        _, told = asking.communicate(timeout=DEADLINE_S)
        assert asking.returncode in {
            exit_code(NotRunningError("x")),
            exit_code(JobFailedError("x")),
        }
        assert '{"error":' in told.splitlines()[-1]
        start(home, settings)
        with Ledger(home.ledger) as ledger:
            assert ledger.run(run_id).phase == "failed"
        again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=DEADLINE_S)
        assert result_of(again)["model_id"] == whole["model_id"]
        resumed = [e.data["step"] for e in own.events(run_id) if e.kind == "resumed"]
        assert resumed
        assert 20 <= resumed[0] < STEPS
    finally:
        stop(home, jobs_grace_s=5.0)


def wait_for_run(home: Home) -> str:
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        with Ledger(home.ledger) as ledger:
            for run in ledger.runs():
                return run.id
        time.sleep(0.1)
    pytest.fail("no run began")


def listeners_of(training: Training) -> list[Any]:
    """Sockets on which the workers listen."""
    workers = workers_of(training)
    return [c for w in workers for c in w.net_connections("tcp") if c.status == "LISTEN"]


@pytest.mark.parametrize(
    ("changes", "error", "word"),
    [
        ({"workers": 5}, ConfigError("x"), "workers: 5"),
        ({"device": "cuda"}, DeviceError("x"), "cuda"),
        (
            {"seq_len": 4096, "model": {}, "batch_tokens": 8192},
            DataError("x"),
            "fewer than one window",
        ),
    ],
)
def test_impossible_wishes_end_before_anything_starts(
    training: Training, changes: dict[str, Any], error: Any, word: str
) -> None:
    done = training.finish(f"run_no_{word[:4]}", **changes)
    assert done.returncode == exit_code(error)
    assert word in done.stderr
    assert not (training.home.run(f"run_no_{word[:4]}") / "ray_train").exists()


def test_an_error_of_one_worker_ends_the_run_at_once(training: Training) -> None:
    store = Store(training.home.store)
    tokenizer = store.path(tiny_dataset(store).blob("tokenizer.json"))
    with training.started("run_damaged") as driver:
        training.wait_for_checkpoint("run_damaged", 10)
        tokenizer.chmod(0o644)
        tokenizer.write_bytes(b"?" * tokenizer.stat().st_size)  # worker 0 reads it at the end
        _, errors = driver.communicate(timeout=DEADLINE_S)
    tiny_dataset(store)  # mends it
    assert driver.returncode == exit_code(CorruptError("x"))
    assert "tokenizer.json" in errors.splitlines()[-1]
    assert not [event for event in training.events("run_damaged") if event.kind == "resumed"]


def workers_of(training: Training) -> list[psutil.Process]:
    """The Ray Train workers of this cluster, of which no other knows this home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "RayTrainWorker" in " ".join(process.info["cmdline"] or []):
            try:
                if process.environ().get("MULM_HOME") == str(training.home.root):
                    found.append(process)
            except psutil.Error:
                continue
    return found
