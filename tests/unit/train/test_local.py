"""Training in one process: stopped with a checkpoint, gone on with, refused in time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

from jobs.entry import JobContext, execute, run_id_of
from mulm.errors import ConfigError, CorruptError, DataError, StoppedError
from mulm.home import Home
from mulm.ledger import Ledger
from mulm.model.checkpoint import checkpoints
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


def test_more_workers_need_a_cluster(home: Home, facts: Ledger) -> None:
    two = CONFIG.model_copy(update={"workers": 2})
    with pytest.raises(ConfigError, match="need a cluster"):
        train_locally(two, "run_a", home, Store(home.store), facts)


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
    assert {entry.name for entry in ordinary.blobs} == {entry.name for entry in base.blobs}

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
