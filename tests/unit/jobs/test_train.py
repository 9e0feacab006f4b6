"""The driver of a training run: what it refuses before workers start, and what it tries again."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from actors.train_context import WorkerOutcome, worker_device
from jobs import train as job
from jobs.boxes import Box
from jobs.cli import main
from jobs.entry import JobContext
from jobs.train import (
    MAX_RESTARTS,
    explain_failure,
    fit_again_if_lost,
    run_training,
)
from mulm.errors import (
    CorruptError,
    DataError,
    DeviceError,
    JobFailedError,
    MulmError,
    NoSpaceError,
)
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset
from mulm.train.config import TrainConfig

CONFIG = TrainConfig(name="a", dataset="tiny", model=TINY_SHAPE, seq_len=64, batch_tokens=128)


@pytest.fixture
def context(home: Home) -> Iterator[JobContext]:
    ledger = Ledger(home.ledger)
    ledger.create_run("run_t", "train", {})
    yield JobContext("run_t", home, Store(home.store), ledger)
    ledger.close()


def failing(errors: list[MulmError]) -> Any:
    def fit() -> WorkerOutcome:
        if errors:
            raise errors.pop(0)
        return WorkerOutcome(result={"steps": 1})

    return fit


def test_lost_workers_are_replaced_a_few_times(context: JobContext) -> None:
    lost: list[MulmError] = [JobFailedError("lost") for _ in range(MAX_RESTARTS)]
    assert fit_again_if_lost(failing(lost), context).result == {"steps": 1}
    texts = [event.data["text"] for event in context.facts.events("run_t")]
    assert len(texts) == MAX_RESTARTS
    assert texts[-1] == "lost; starting again (3 of 3)"
    lost = [JobFailedError("lost") for _ in range(MAX_RESTARTS + 1)]
    with pytest.raises(JobFailedError):
        fit_again_if_lost(failing(lost), context)


@pytest.mark.parametrize("error", [NoSpaceError("full"), CorruptError("bad"), DataError("small")])
def test_an_error_of_ours_is_final(context: JobContext, error: MulmError) -> None:
    errors = [error, error]
    with pytest.raises(type(error)):
        fit_again_if_lost(failing(errors), context)
    assert len(errors) == 1


def test_the_error_of_the_rank_that_met_it_is_found() -> None:
    peers = {0: RuntimeError("connection closed"), 1: CorruptError("bad shard", hint="build again")}
    failure = ray.train.WorkerGroupError("two failed", peers)
    assert explain_failure(failure) is peers[1]
    lost = explain_failure(ray.train.WorkerGroupError("one died", {1: RuntimeError("died")}))
    assert isinstance(lost, JobFailedError)


def test_a_run_that_chooses_its_way_trains_on_who_is_left(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the number of workers asked for is waited for, but those that have room are taken."""
    chosen: list[Any] = []
    boxes = [Box(name, f"10.0.0.{name}", 1, {"CPU": 1.0}) for name in "12"]
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(job, "find_boxes", lambda *_: boxes)
    monkeypatch.setattr(job, "wait_for_boxes", lambda found, *_: found[:1])
    monkeypatch.setattr(job, "_train_in_best_way", lambda *given: chosen.append(given[-1]))
    order: Any = SimpleNamespace(config=CONFIG.model_copy(update={"workers": 2}), device="cpu")
    job._train(order, None, context)  # type: ignore[arg-type]
    assert chosen == [boxes[:1]]


@pytest.mark.parametrize(
    ("damage", "error"),
    [("short", DataError), ("flip", CorruptError), ("nothing held out", DataError)],
)
def test_a_useless_dataset_is_refused_before_workers_start(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, damage: str, error: type[MulmError]
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(job, "_make_trainer", lambda _: pytest.fail("a group was made"))
    dataset = tiny_dataset(context.store, n_train=40 if damage == "short" else 2000)
    if damage == "nothing held out":
        dataset = dataset.model_copy(update={"counts": {"vocab_size": 64}})
        context.store.save(dataset)
    if damage == "flip":
        path: Path = context.store.path(dataset.blob("train-00000.bin"))
        path.chmod(0o644)
        path.write_bytes(b"\0" * path.stat().st_size)
    context.facts.publish("dataset", "tiny", dataset.id)
    with pytest.raises(error):
        run_training(context, CONFIG)


def test_stopping_waits_for_the_workers_for_a_while(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "STOP_TIMEOUT_S", 0.3)
    is_over = Event()
    started_s = time.monotonic()
    job._stop(is_over, context)
    assert 0.3 <= time.monotonic() - started_s < 5
    assert context.facts.run("run_t").phase == "pausing"
    is_over.set()
    job._stop(is_over, context)


def test_a_signal_leaves_a_request_to_pause_as_it_is(context: JobContext) -> None:
    context.facts.set_phase("run_t", "pausing")
    is_over = Event()
    is_over.set()
    job._stop(is_over, context)
    assert context.facts.run("run_t").phase == "pausing"


class StoppingGroup:
    """A Ray Train group that ends some time after it was asked to, as one that writes does."""

    def __init__(self, context: JobContext) -> None:
        self.context, self.has_written = context, False

    def fit(self) -> Any:
        while self.context.facts.run("run_t").phase != "pausing":
            time.sleep(0.01)
        time.sleep(0.3)
        self.has_written = True
        return SimpleNamespace(return_value=WorkerOutcome(result={}))


def test_a_signal_leaves_the_workers_the_time_to_write(context: JobContext) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    group, before = StoppingGroup(context), signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            job._fit(group, context)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert group.has_written


def test_a_dry_run_tells_the_plan_and_trains_nothing(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ledger(home.ledger) as facts:
        facts.publish("dataset", "tiny", tiny_dataset(Store(home.store)).id)
    monkeypatch.setenv("MULM_HOME", str(home.root))
    config = tmp_path / "config.json"
    config.write_text(CONFIG.model_dump_json())
    main(["train", str(config), "--dry-run", "--set", "device=cpu", "--set", "workers=2"])
    printed = capsys.readouterr().out
    assert "parameters" in printed
    assert "workers agree by measured when the run begins: which machines there are" in printed
    main(["train", str(config), "--dry-run", "--set", "steps=7", "--set", "sync=diloco", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["tokens"] == 7 * 128
    assert told["sync"]["strategy"] == "diloco"
    with Ledger(home.ledger) as facts:
        assert facts.versions("model") == []
        assert not list((home.root / "runs").glob("*"))


def test_a_worker_without_its_gpu_is_no_cpu_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_device("cpu", 3).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="'cuda' was asked for"):
        worker_device("cuda", 0)
