"""Training in one process: stopped with a checkpoint, gone on with, refused in time."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

from jobs.entry import JobContext, execute
from jobs.exit_codes import exit_code
from mulm.errors import (
    ConfigError,
    CorruptError,
    DataError,
    DeviceError,
    NoSpaceError,
    StoppedError,
)
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.model.checkpoint import checkpoints
from mulm.runs.identity import run_id_of
from mulm.store import Store
from mulm.testing import TINY_SHAPE, tiny_dataset, tiny_stored_model
from mulm.train.config import TrainConfig
from mulm.train.context import LocalContext
from mulm.train.local import check_run, train_locally
from mulm.train.loop import train

CONFIG = TrainConfig.model_validate(
    {
        "name": "tiny", "dataset": "tiny", "model": TINY_SHAPE, "steps": 8, "batch_tokens": 80,
        "seq_len": 16, "precision": "fp32", "device": "cpu", "checkpoint_every": 100,
    }
)  # fmt: skip


@pytest.fixture
def facts(home: Home) -> Iterator[Ledger]:
    with Ledger(home.ledger) as ledger:
        ledger.publish("dataset", "tiny", tiny_dataset(Store(home.store)).id)
        yield ledger


def newest(home: Home, run_id: str) -> str:
    return checkpoints(home.run(run_id) / "checkpoints")[-1].name


def test_asked_to_stop_it_writes_a_checkpoint_and_goes_on_later(home: Home, facts: Ledger) -> None:
    store, n_asked = Store(home.store), count(1)
    for run_id in ("run_cut", "run_whole"):
        facts.create_run(run_id, "train", {})
    with pytest.raises(StoppedError, match="step 3 of 8"):
        train_locally(CONFIG, "run_cut", home, store, facts, lambda: next(n_asked) == 4)
    assert newest(home, "run_cut") == "step-00000003"
    told = [e.data["step"] for e in facts.events("run_cut") if e.kind == "checkpoint"]
    assert told == [3]
    resumed = train_locally(CONFIG, "run_cut", home, store, facts)
    whole = train_locally(CONFIG, "run_whole", home, store, facts)
    assert resumed["model_id"] == whole["model_id"]


CHILD = Path(__file__).with_name("local_child.py")


def child(home: Path, *arguments: object) -> tuple[int, str]:
    """Train in a process of its own; its exit status and what it printed."""
    command = [sys.executable, str(CHILD), str(home), *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, timeout=120)
    return done.returncode, done.stdout.strip()


@pytest.mark.slow
def test_killed_at_any_step_it_resumes_bit_for_bit(tmp_path: Path) -> None:
    seed = os.environ.get("MULM_TEST_SEED") or str(random.randrange(1 << 32))
    chance, steps = random.Random(seed), 30
    print(f"MULM_TEST_SEED={seed}")
    _, whole = child(tmp_path / "whole", "run_whole", steps)
    for n in range(2):
        step = chance.randint(1, steps)
        print(f"killed in step {step}")
        status, _ = child(tmp_path / "cut", f"run_cut{n}", steps, "kill", step)
        assert status == -signal.SIGKILL
        assert child(tmp_path / "cut", f"run_cut{n}", steps) == (0, whole)


@pytest.mark.slow
def test_a_disk_that_is_full_when_the_model_is_stored_loses_nothing(tmp_path: Path) -> None:
    own_mounts = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    if shutil.which("unshare") is None or subprocess.call([*own_mounts, "mount -t tmpfs x /mnt"]):
        pytest.skip("this machine lets nobody mount a small disk")
    script = tmp_path / "script.sh"
    script.write_text(
        "mount -t tmpfs -o size=3m x /mnt\n"
        f"{sys.executable} {CHILD} /mnt/h run_a 6 fill; echo $?\n"
        "rm /mnt/h/filler; find /mnt/h/store -name 'mdl_*' -o -name '*.tmp'\n"
        f"{sys.executable} {CHILD} /mnt/h run_a 6; echo $?\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    command = [*own_mounts, f"sh {script}"]
    told = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, timeout=120).stdout
    full, status, model_id, after = told.splitlines()
    # Whoever writes first is told: the store, or the ledger for an event of a moment before.
    assert full.startswith("no_space no space left on the disk of '/mnt/h/")
    assert int(status) == exit_code(NoSpaceError("full"))
    assert (model_id, after) == (child(tmp_path / "whole", "run_whole", 6)[1], "0")


def test_more_workers_need_a_cluster(home: Home, facts: Ledger) -> None:
    two = CONFIG.model_copy(update={"workers": 2})
    with pytest.raises(ConfigError, match="need a cluster"):
        train_locally(two, "run_a", home, Store(home.store), facts)


def test_a_gpu_that_is_not_there_never_becomes_a_cpu(
    home: Home, facts: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    facts.create_run("run_gpu", "train", {})
    asked = CONFIG.model_copy(update={"device": "cuda"})
    with pytest.raises(DeviceError, match="'cuda' was asked for"):
        train_locally(asked, "run_gpu", home, Store(home.store), facts)
    assert list(facts.events("run_gpu")) == []
    assert not home.run("run_gpu").exists()


def test_a_useless_dataset_is_found_at_once(home: Home) -> None:
    store = Store(home.store)
    good = tiny_dataset(store)
    check_run(CONFIG, good, {}, store)
    with pytest.raises(DataError, match="fewer than one window"):
        check_run(CONFIG, tiny_dataset(store, n_train=16), {}, store)
    uncounted = {"vocab_size": good.counts["vocab_size"]}
    with pytest.raises(DataError, match="no validation text"):
        check_run(CONFIG, good.model_copy(update={"counts": uncounted}), {}, store)
    tokenizer = store.path(good.blob("tokenizer.json"))
    tokenizer.chmod(0o644)
    tokenizer.write_bytes(b"?" * tokenizer.stat().st_size)
    with pytest.raises(CorruptError, match=r"tokenizer\.json"):
        check_run(CONFIG, good, {}, store)


def one_of_two(rank: int, store_file: str, root: str, config: TrainConfig) -> None:
    """A worker that is asked to stop after three steps."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store_file}", rank=rank, world_size=2
    )
    home, n_asked = Home(Path(root)), count(1)
    store = Store(home.store)

    def on_event(kind: str, data: Any) -> None: ...

    context = LocalContext(
        store, tiny_dataset(store), home.run("run_cut"), torch.device("cpu"), on_event,
        lambda: rank == 1 and next(n_asked) == 4, rank=rank, world_size=2,
    )  # fmt: skip
    with pytest.raises(StoppedError):
        train(config, context)
    distributed.destroy_process_group()


@pytest.mark.slow
def test_begun_by_two_workers_it_is_ended_by_one(
    home: Home, facts: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = Store(home.store)
    two = CONFIG.model_copy(update={"workers": 2})
    assert run_id_of("train", two) == run_id_of("train", CONFIG)

    def work(context: JobContext, config: TrainConfig) -> dict[str, Any]:
        if config.workers == 1:
            return train_locally(config, context.run_id, home, store, facts)
        arguments = (str(tmp_path / "meeting"), str(home.root), config)
        multiprocessing.spawn(one_of_two, arguments, nprocs=2)
        raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        execute("train", two, work, JobContext("run_cut", home, store, facts))
    assert newest(home, "run_cut") == "step-00000003"
    resumed = execute("train", CONFIG, work, JobContext("run_cut", home, store, facts))
    whole = execute("train", CONFIG, work, JobContext("run_whole", home, store, facts))
    assert [e.data for e in facts.events("run_cut") if e.kind == "resumed"] == [{"step": 3}]
    assert resumed["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert facts.run("run_cut").config["workers"] == 1


def test_pairs_through_the_ledger(
    home: Home, facts: Ledger, rows: Any, build_rows: Any, tokenizer_of: Any
) -> None:
    store = Store(home.store)
    dataset = build_rows(store, rows.pairs)
    facts.publish("dataset", "pairs", dataset.id)
    base = tiny_stored_model(store, tokenizer_of(store, dataset))
    facts.publish("model", "base", base.id)
    values = CONFIG.model_dump() | {
        "model": {}, "dataset": "pairs", "init_from": "base", "preference": {}, "lora": {},
        "seq_len": 64, "batch_tokens": 512, "steps": 2,
    }  # fmt: skip
    for run_id in ("run_pairs", "run_none"):
        facts.create_run(run_id, "train", {})
    config = TrainConfig.model_validate(values)
    result = train_locally(config, "run_pairs", home, store, facts)
    assert 0 < result["validation_preference_loss"] < 1
    assert result["parameters"] == base.counts["parameters"]
    told = [event.data.get("text", "") for event in facts.events("run_pairs")]
    assert any("42 pairs, 18 held out, 0 too long" in text for text in told), told
    ordinary = store.load(result["model_id"])
    assert ordinary.parents["init_from"] == base.id
    names = {entry.name for entry in base.blobs}
    assert {entry.name for entry in ordinary.blobs} == names | {"adapter.safetensors"}

    texts = tiny_dataset(store, tokenizer_fingerprint=dataset.tokenizer_fingerprint or "")
    facts.publish("dataset", "texts", texts.id)
    with pytest.raises(DataError, match="no documents that could be pairs"):
        train_locally(
            TrainConfig.model_validate(values | {"dataset": "texts"}),
            "run_none",
            home,
            store,
            facts,
        )
