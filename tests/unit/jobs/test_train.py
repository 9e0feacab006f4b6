"""The driver of a training run: what it refuses before workers start, and what it tries again."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RpcError

from actors.train_context import TrainOrder, WorkerOutcome, worker_device
from jobs import boxes, room
from jobs import train as job
from jobs.cli import main
from jobs.entry import JobContext
from jobs.group_size import GroupSize
from jobs.growth import Growth
from jobs.losses import fit_again_if_lost
from jobs.train import explain_failure, run_training
from mulm.errors import (
    CorruptError,
    DataError,
    DeadlineError,
    DeviceError,
    JobFailedError,
    MulmError,
    StoppedError,
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


def test_the_error_of_the_rank_that_met_it_is_found() -> None:
    peers = {0: RuntimeError("connection closed"), 1: CorruptError("bad shard", hint="build again")}
    failure = ray.train.WorkerGroupError("two failed", peers)
    assert explain_failure(failure) is peers[1]
    lost = explain_failure(ray.train.WorkerGroupError("one died", {1: RuntimeError("died")}))
    assert isinstance(lost, JobFailedError)


class HomeCluster:
    """PCs of one CPU each, and what a run in step asks of them; time passes where it waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: str) -> None:
        self.names, self.draining, self.time_s = set(names), frozenset[str](), 0.0
        self.groups: list[int] = []
        self.measured: list[list[str]] = []
        monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": float(len(self.names))})
        for module in (boxes, room):
            monkeypatch.setattr(module, "free_resources", self.free)
        for module in (job, room):
            monkeypatch.setattr(module, "staying_nodes", self.nodes)
        waits = {"now_s": lambda: self.time_s, "sleep": self.sleep}
        for name in ("wait_for_rest", "wait_for_room", "wait_for_boxes"):
            monkeypatch.setattr(job, name, partial(getattr(room, name), **waits))
        monkeypatch.setattr(job, "forget_regroup", lambda _: None)
        monkeypatch.setattr(job, "_make_trainer", lambda order, *_: order.config.workers)

    def free(self) -> dict[str, dict[str, float]]:
        return {name: {"CPU": 1.0} for name in self.names}

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "Alive": True, "Resources": {"CPU": 1.0}, "NodeManagerAddress": name}
            for name in sorted(self.names - self.draining)
        ]

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds

    def fits(self, monkeypatch: pytest.MonkeyPatch, *ends: Any) -> None:
        """What becomes of each group: an outcome, or what happens before one is raised."""
        waiting = list(ends)

        def fit(n_workers: int, *_: Any) -> WorkerOutcome:
            self.groups.append(n_workers)
            end = waiting.pop(0)
            outcome = end() if callable(end) else end
            if isinstance(outcome, BaseException):
                raise outcome
            assert isinstance(outcome, WorkerOutcome)
            return outcome

        monkeypatch.setattr(job, "_fit", fit)

    def goes(self, name: str) -> Any:
        """A machine is switched off in the midst of training."""

        def end() -> MulmError:
            self.names.discard(name)
            return JobFailedError(f"training lost worker {name}")

        return end

    def is_wanted(self, name: str) -> Any:
        """A machine's owner wants it back: workers stop with a checkpoint."""

        def end() -> WorkerOutcome:
            self.draining = frozenset(name)
            return WorkerOutcome(error=StoppedError("training stopped at step 7 of 9"))

        return end


DONE = WorkerOutcome(result={"steps": 9})


def train_all(context: JobContext, sync: str, workers: int) -> WorkerOutcome:
    config = CONFIG.model_copy(update={"workers": workers, "sync": sync})
    order = TrainOrder(config, "run_t", None, {}, "cpu")  # type: ignore[arg-type]
    size = GroupSize(workers)
    return fit_again_if_lost(
        lambda after: job._train(order, None, context, after, size),  # type: ignore[arg-type]
        context,
    )


def told(context: JobContext) -> list[str]:
    return [str(e.data["text"]) for e in context.facts.events("run_t", kinds=("log",))]


@pytest.mark.parametrize("sync", ["ddp", "ddp_lowrank"])
def test_who_is_left_goes_on_when_a_machine_is_switched_off(
    context: JobContext, monkeypatch: pytest.MonkeyPatch, sync: str
) -> None:
    cluster = HomeCluster(monkeypatch, "12")
    cluster.fits(monkeypatch, cluster.goes("2"), DONE)
    assert train_all(context, sync, 2) is DONE
    assert cluster.groups == [2, 1]
    assert room.BACK_S <= cluster.time_s <= room.BACK_S + 5
    lost, going_on = told(context)
    assert lost == "training lost worker 2; starting again (1 of 3)"
    assert "going on with 1 of 2 workers; more are taken in" in going_on


def test_who_is_left_goes_on_where_the_way_was_chosen(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three, two are measured again; the last trains alone."""
    cluster = HomeCluster(monkeypatch, "123")
    ways = [cluster.goes("3"), cluster.goes("2")]

    def in_best_way(*given: Any) -> WorkerOutcome:
        cluster.measured.append([box.node_id for box in given[3]])
        raise ways.pop(0)()

    monkeypatch.setattr(job, "_train_in_best_way", in_best_way)
    cluster.fits(monkeypatch, DONE)
    assert train_all(context, "auto", 3) is DONE
    assert cluster.measured == [["1", "2", "3"], ["1", "2"]]
    assert cluster.groups == [1]


def test_a_machine_that_starts_again_is_waited_for(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = HomeCluster(monkeypatch, "12")

    def sleep(seconds: float) -> None:
        cluster.time_s += seconds
        if cluster.time_s >= 12:
            cluster.names.add("2")

    monkeypatch.setattr(cluster, "sleep", sleep)
    monkeypatch.setattr(job, "wait_for_rest", partial(
        room.wait_for_rest, now_s=lambda: cluster.time_s, sleep=sleep
    ))  # fmt: skip
    cluster.fits(monkeypatch, cluster.goes("2"), DONE)
    train_all(context, "ddp", 2)
    assert cluster.groups == [2, 2]
    assert 12 <= cluster.time_s <= 14


def test_a_machine_that_is_wanted_back_is_not_waited_for(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = HomeCluster(monkeypatch, "12")
    cluster.fits(monkeypatch, cluster.is_wanted("2"), DONE)
    assert train_all(context, "ddp", 2) is DONE
    assert cluster.groups == [2, 1]
    assert cluster.time_s < 2
    assert "stopped at step 7 of 9 for machines that leave or come; going on" in (told(context)[0])


def test_a_run_that_begins_waits_for_all_that_it_asks_for(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = HomeCluster(monkeypatch, "1")
    monkeypatch.setattr(room, "ROOM_TIMEOUT_S", 100.0)
    with pytest.raises(DeadlineError, match="2 CPUs are needed and 1 are free"):
        train_all(context, "ddp", 2)
    assert cluster.groups == []


def test_a_group_is_asked_to_stop_when_its_machine_is_back(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    is_over = Event()

    def ask(run_id: str) -> None:
        asked.append(run_id)
        if len(asked) == 1:
            raise RpcError("gone")
        is_over.set()

    monkeypatch.setattr(job, "ask_regroup", ask)
    clock = iter(range(0, 10_000, 10))
    growth = Growth(lambda: 1, 0, lambda: float(next(clock)))
    job._wait(is_over, context, growth)
    assert asked == ["run_t", "run_t"]
    assert ["workers stop" in text for text in told(context)] == [True]


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
