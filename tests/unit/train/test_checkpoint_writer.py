"""Checkpoints are written aside, in order, and their errors come back."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from mulm.errors import NoSpaceError
from mulm.model.checkpoint import checkpoints
from mulm.train import checkpoint_writer
from mulm.train.checkpoint_writer import CheckpointWriter
from mulm.train.state import Snapshot


def a_snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"a": torch.zeros(3)}, {"loss": 1.0})


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
    assert [writer.start(a_snapshot(step)) for step in (1, 2, 3)] == [None, 1, 2]
    assert writer.wait() == 3
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
