"""Checkpoints are written aside, in order, and their errors come back."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from mulm.errors import NoSpaceError
from mulm.model.checkpoint import checkpoints, save_checkpoint
from mulm.train import checkpoint_writer
from mulm.train.best import BestCheckpoint
from mulm.train.checkpoint_writer import CheckpointWriter, Written
from mulm.train.state import Snapshot


def a_snapshot(step: int, judged: float | None = None) -> Snapshot:
    facts = {"loss": 1.0, "bits": judged, "is_validated": judged is not None}
    return Snapshot(step, {"a": torch.zeros(3)}, facts, judged)


def nothing() -> None:
    """For a run whose reports are durable at once."""


def test_a_checkpoint_appears_after_what_was_reported_is_durable(tmp_path: Path) -> None:
    seen: list[int] = []
    writer = CheckpointWriter(tmp_path, 2, lambda: seen.append(len(checkpoints(tmp_path))))
    writer.start(a_snapshot(1))
    writer.start(a_snapshot(2))
    writer.close()
    assert seen == [0, 1]


def test_each_is_told_once_and_the_newest_stay(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, 2, nothing)
    assert writer.poll() is None
    told = [writer.start(a_snapshot(step)) for step in (1, 2, 3)]
    assert told == [None, Written(1, is_best=False), Written(2, is_best=False)]
    assert writer.wait() == Written(3, is_best=False)
    assert writer.wait() is None
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]
    writer.close()


def test_close_waits_for_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, has_begun = checkpoint_writer.save_checkpoint, Event()

    def slow(*arguments: Any) -> Any:
        has_begun.set()
        Event().wait(0.05)
        return honest(*arguments)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", slow)
    writer = CheckpointWriter(tmp_path, 2, nothing)
    writer.start(a_snapshot(1))
    assert has_begun.wait(10)
    writer.close()
    assert len(checkpoints(tmp_path)) == 1


def test_no_error_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise NoSpaceError("full")

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", full)
    writer = CheckpointWriter(tmp_path, 2, nothing)
    writer.start(a_snapshot(1))
    with pytest.raises(NoSpaceError):
        writer.start(a_snapshot(2))
    writer.start(a_snapshot(3))
    writer.close()
    assert "checkpoint not written" in caplog.text


def written(writer: CheckpointWriter, step: int, judged: float | None) -> bool:
    writer.start(a_snapshot(step, judged))
    done = writer.wait()
    assert done is not None
    return done.is_best


def steps_in(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in checkpoints(folder)]


@pytest.mark.parametrize(("higher_is_better", "best"), [(False, 2), (True, 3)])
def test_the_newest_and_the_best_stay(tmp_path: Path, higher_is_better: bool, best: int) -> None:
    writer = CheckpointWriter(
        tmp_path, 2, nothing, BestCheckpoint(higher_is_better=higher_is_better)
    )
    told = [written(writer, step, judged) for step, judged in enumerate([3.0, 1.0, 4.0, 2.0, 2.0])]
    writer.close()
    assert told == ([True, False, True, False, False] if higher_is_better else
                    [True, True, False, False, False])  # fmt: skip
    assert steps_in(tmp_path) == [best - 1, 3, 4]


def test_what_was_not_validated_is_never_the_best(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, 1, nothing, BestCheckpoint(higher_is_better=False))
    assert written(writer, 1, 2.0)
    assert not written(writer, 2, None)
    writer.close()
    assert steps_in(tmp_path) == [1, 2]


def test_a_run_that_goes_on_knows_the_best(tmp_path: Path) -> None:
    for step, judged in ((1, 2.0), (2, 1.0), (3, 3.0), (4, None)):
        save_checkpoint(tmp_path, step, {}, a_snapshot(step, judged).facts)
    (tmp_path / "step-00000001" / "state.json").write_bytes(b"broken")
    best = BestCheckpoint.among(tmp_path, "bits", higher_is_better=False)
    assert best.step == 2
    writer = CheckpointWriter(tmp_path, 1, nothing, best)
    assert not written(writer, 5, 1.0), "of equals the first stays the best"
    assert written(writer, 6, 0.5)
    writer.close()
    assert steps_in(tmp_path) == [6]
