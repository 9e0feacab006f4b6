from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mulm.ledger import Ledger
from mulm.model.checkpoint import save_checkpoint
from mulm.runs.digest import all_events, checkpoint_steps, described, listed
from mulm.runs.kinds import name_of, references_of
from mulm.runs.standing import standing
from mulm.train.config import TrainConfig

CONFIG = TrainConfig(name="demo", dataset="tiny@1", init_from="gone@4").model_dump(mode="json")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.create_run("run_a", "train", CONFIG)
        yield ledger


def test_a_run_with_all_that_it_said(ledger: Ledger, tmp_path: Path) -> None:
    dataset_id = "ds_" + "0" * 24
    ledger.publish("dataset", "tiny", dataset_id)
    ledger.append_events(
        "run_a",
        [
            ("started", {"pid": 1, "command": "mulm train x.yaml"}),
            ("metric", {"step": 1, "loss": 3.0}),
            ("progress", {"stage": "train", "done": 1, "total": 9}),
            ("checkpoint", {"step": 1, "is_best": True}),
            ("choice", {"reason": "first"}),
            ("choice", {"reason": "second"}),
            ("started", {"pid": 2, "command": "mulm runs resume demo"}),
            ("metric", {"step": 2, "loss": 2.0}),
            ("progress", {"stage": "train", "done": 2, "total": 9}),
        ],
    )
    for step in (1, 12):
        save_checkpoint(tmp_path / "checkpoints", step, {"x": torch.zeros(1)}, {})
    (tmp_path / "checkpoints" / ".step-00000013.tmp").mkdir()
    ledger.set_phase("run_a", "running")
    told = described(standing(ledger.run("run_a"), is_held=True, job=None), ledger, tmp_path)
    assert (told["run"], told["name"], told["phase"]) == ("run_a", "demo", "running")
    assert told["progress"] == {"stage": "train", "done": 2, "total": 9}
    assert told["metrics"] == {"step": 2, "loss": 2.0}
    assert told["choice"] == {"reason": "second"}
    assert told["checkpoints"] == [
        {"step": 1, "is_best": True}, {"step": 12, "is_best": False},
    ]  # fmt: skip
    assert told["parents"] == {
        "dataset": {"ref": "tiny@1", "id": dataset_id},
        "init_from": {"ref": "gone@4", "id": None},
    }
    assert told["made_by"]["command"] == "mulm train x.yaml"
    assert told["last_process"]["pid"] == 2
    assert told["config"] == CONFIG


def test_a_run_that_has_said_nothing(ledger: Ledger, tmp_path: Path) -> None:
    found = standing(ledger.run("run_a"), is_held=False, job=None)
    row = listed(found, ledger)
    assert (row["phase"], row["is_living"], row["progress"]) == ("failed", False, None)
    told = described(found, ledger, tmp_path / "nowhere")
    assert (told["made_by"], told["checkpoints"], told["metrics"]) == (None, [], {})


def test_all_events_are_read_whatever_their_number(ledger: Ledger) -> None:
    ledger.append_events("run_a", [("a" if n % 3 else "b", {"n": n}) for n in range(3500)])
    assert len(list(all_events(ledger, "run_a"))) == 3500
    assert [e.data["n"] for e in all_events(ledger, "run_a", "b")] == list(range(0, 3500, 3))
    assert len(list(all_events(ledger, "run_a", "a", "b"))) == 3500


def test_checkpoints_are_those_that_are_whole(tmp_path: Path) -> None:
    assert checkpoint_steps(tmp_path / "none") == []


def test_what_runs_are_called_and_read(ledger: Ledger) -> None:
    evaluation = ledger.create_run("run_e", "evaluate", {"model": "demo@1", "dataset": None})
    assert name_of(evaluation) == "demo@1"
    assert references_of(evaluation) == {"model": ("model", "demo@1")}
    build = {"name": "b", "tokenizer": {"ref": "t@1"}, "dedup": {"against": ["x@1"]}}
    assert references_of(ledger.create_run("run_p", "prepare", build)) == {
        "tokenizer.ref": ("tokenizer", "t@1"),
        "dedup.against": ("dataset", "x@1"),
    }
    strange = ledger.create_run("run_s", "dream", {})
    assert (name_of(strange), references_of(strange)) == ("", {})
