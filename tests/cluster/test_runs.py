"""Runs as jobs: listed, paused, gone on with and cancelled, whoever submitted them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.dashboard import Dashboard
from actors.run_desk import RunDesk
from mulm.errors import ConflictError
from mulm.ledger import Ledger
from mulm.records import Phase
from mulm.runs.curve import curve
from mulm.runs.digest import all_events, checkpoint_steps
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train.metrics import OF_THE_MACHINE

pytestmark = pytest.mark.cluster

DEADLINE_S = 300.0
STEPS = 300
"""Some seconds of work: a request at the first checkpoint comes before its end."""
CONFIG = {
    "dataset": "tiny-runs", "model": TINY_SHAPE, "steps": STEPS, "workers": 2, "balance": False,
    "batch_tokens": 128, "seq_len": 16, "log_every": 1, "validate_every": 100,
    "checkpoint_every": 10, "device": "cpu",
}  # fmt: skip
_MULM = [sys.executable, "-c", "from jobs.cli import main; main()", "runs"]


def mulm(cluster: Any, *argv: str) -> Any:
    """What `mulm runs ... --json` prints."""
    done = subprocess.run(
        [*_MULM, *argv, "--json"], env=cluster.env, capture_output=True, text=True,
        timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def submit(cluster: Any, tmp_path: Path) -> Callable[..., None]:
    """Start training as a job, under a run id or, as `ray job submit` does, under none."""
    with Ledger(cluster.home.ledger) as ledger:
        ledger.publish("dataset", "tiny-runs", tiny_dataset(Store(cluster.home.store)).id)

    def start(name: str, run_id: str | None = None) -> None:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(CONFIG | {"name": name}))
        if run_id:
            cluster.jobs.submit("jobs.train", run_id, path)
            return
        entrypoint = f"{sys.executable} -m jobs.train --config {path}"
        dashboard = Dashboard.of(cluster.info, cluster.home)
        dashboard.request("POST", "/api/jobs/", {"entrypoint": entrypoint}, DEADLINE_S)

    return start


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
    """The curve without what depends on the machine."""
    rows = curve(all_events(desk.facts, run_id, "metric"))
    return [{k: v for k, v in row.items() if k not in OF_THE_MACHINE} for row in rows]


def test_paused_and_resumed_is_as_if_it_had_never_stopped(
    cluster: Any, submit: Callable[..., None], desk: RunDesk
) -> None:
    submit("cut")
    submit("ended", "run_ended")
    cut = wait_for(desk, "cut", "running", checkpoint=True)
    paused = desk.pause(cut)
    assert paused.run.phase == "paused", "it was too fast to be paused"
    assert not paused.is_living
    (kept,) = checkpoint_steps(cluster.home.run(cut) / "checkpoints")[-1:]

    assert desk.cancel("run_ended").run.phase == "cancelled"
    assert cluster.jobs.has_ended("run_ended")
    assert desk.cancel("run_ended").run.phase == "cancelled"

    submit("whole", "run_unstopped")
    left = mulm(cluster, "resume", "cut", "--detach")
    assert left == {"run": cut, "job": cut}  # the job before it had a name of Ray's
    result = mulm(cluster, "resume", "cut")
    assert result["run"] == cut
    assert [e.data["step"] for e in all_events(desk.facts, cut, "resumed")] == [kept]
    wait_for(desk, "whole", "succeeded")
    assert numbers(desk, cut) == numbers(desk, "run_unstopped")
    whole = desk.facts.run("run_unstopped").result or {}
    assert (result["loss"], result["steps"]) == (whole["loss"], STEPS)


def test_a_job_that_only_starts_is_cancelled(
    cluster: Any, submit: Callable[..., None], desk: RunDesk
) -> None:
    submit("early", "run_early")
    assert desk.one("run_early").run.phase == "queued"
    assert desk.cancel("run_early").run.phase == "cancelled"
    assert cluster.jobs.has_ended("run_early")
    with pytest.raises(ConflictError, match="was cancelled"):
        desk.pause("run_early")
