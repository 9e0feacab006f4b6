"""Runs as jobs: listed, paused, gone on with and cancelled, whoever submitted them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.run_desk import RunDesk, open_desk
from mulm.errors import ConflictError
from mulm.facts import Phase
from mulm.ledger import Ledger
from mulm.runs.curve import curve
from mulm.runs.digest import all_events, checkpoint_steps
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset

pytestmark = pytest.mark.cluster

DEADLINE_S = 120.0
STEPS = 400
"""Some seconds of work: a request at the first checkpoint comes before its end."""
_MULM = [sys.executable, "-c", "from jobs.cli import main; main()"]


class User:
    """Somebody at a terminal of the cluster's machine."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self.env = cluster.env | {"RAY_API_SERVER_ADDRESS": cluster.info.dashboard_url}
        self.folder = folder

    def config(self, name: str) -> Path:
        values = {
            "name": name, "dataset": "tiny-runs", "model": TINY_SHAPE, "steps": STEPS,
            "workers": 2, "batch_tokens": 128, "seq_len": 16, "log_every": 1, "validate_every": 100,
            "checkpoint_every": 10, "device": "cpu",
        }  # fmt: skip
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(values))
        return path

    def submit(self, name: str) -> None:
        """As the README does, but without waiting for the end."""
        command = ["ray", "job", "submit", "--no-wait", "--working-dir", str(self.folder)]
        path = self.config(name)
        self.run(*command, "--", "python", "-m", "jobs.train", "--config", path.name)

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.env, cwd=self.folder, capture_output=True, text=True,
            timeout=DEADLINE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def user(cluster: Any, tmp_path: Path) -> User:
    with Ledger(cluster.home.ledger) as ledger:
        ledger.publish("dataset", "tiny-runs", tiny_dataset(Store(cluster.home.store)).id)
    return User(cluster, tmp_path)


@pytest.fixture
def desk(cluster: Any) -> Iterator[RunDesk]:
    """As `open_desk` makes it, but it writes without a process that takes seconds to start."""
    with Ledger(cluster.home.ledger) as facts:

        def write(method: str, *args: Any, **kwargs: Any) -> None:
            getattr(facts, method)(*args, **kwargs)

        yield RunDesk(cluster.home, facts, cluster.jobs, write)


def wait_for(desk: RunDesk, name: str, phase: Phase, checkpoint: bool = False) -> str:
    """The id of the run of that name, when it is so far."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        for found in desk.all("train"):
            is_it = found.run.config.get("name") == name and found.run.phase == phase
            if is_it and (not checkpoint or desk.facts.last_event(found.run.id, "checkpoint")):
                return found.run.id
        time.sleep(0.1)
    raise AssertionError(f"{name} did not become {phase}")


def numbers(desk: RunDesk, run_id: str) -> list[dict[str, Any]]:
    """The curve without what depends on time."""
    rows = curve(all_events(desk.facts, run_id, "metric"))
    return [{k: v for k, v in row.items() if k not in ("tokens_per_s", "eta_s")} for row in rows]


def test_paused_and_resumed_is_as_if_it_had_never_stopped(
    cluster: Any, user: User, desk: RunDesk
) -> None:
    user.submit("cut")
    cut = wait_for(desk, "cut", "running", checkpoint=True)
    paused = desk.pause(cut)
    assert paused.run.phase == "paused", "it was too fast to be paused"
    assert not paused.is_living
    (kept,) = checkpoint_steps(cluster.home.run(cut) / "checkpoints")[-1:]

    cluster.jobs.submit("jobs.train", "run_whole", user.config("run_whole"))
    left = json.loads(user.run(*_MULM, "runs", "resume", "cut", "--detach", "--json"))
    assert left == {"run": cut, "job": cut}  # its first job has an id that Ray gave
    result = json.loads(user.run(*_MULM, "runs", "resume", "cut", "--json"))
    assert result["run"] == cut
    assert [e.data["step"] for e in all_events(desk.facts, cut, "resumed")] == [kept]
    wait_for(desk, "run_whole", "succeeded")
    assert numbers(desk, cut) == numbers(desk, "run_whole")
    whole = desk.facts.run("run_whole").result or {}
    assert (result["loss"], result["steps"]) == (whole["loss"], STEPS)


def test_a_cancelled_run_has_ended(cluster: Any, user: User) -> None:
    cluster.jobs.submit("jobs.train", "run_ended", user.config("run_ended"))
    with open_desk(cluster.home) as desk:
        assert desk.one("run_ended").run.phase == "queued"
        wait_for(desk, "run_ended", "running")
        assert desk.cancel("run_ended").run.phase == "cancelled"
        assert cluster.jobs.has_ended("run_ended")
        assert desk.cancel("run_ended").run.phase == "cancelled"
        with pytest.raises(ConflictError, match="was cancelled"):
            desk.pause("run_ended")
