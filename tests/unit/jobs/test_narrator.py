"""A job whose output is all that its user sees tells what happens, and never fails by telling."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from jobs.narrator import narrated
from jobs.progress import Progress
from mulm.errors import NotRunningError
from mulm.ledger import Ledger

RUN = "run_1"


def test_what_happens_in_the_block_is_shown(tmp_path: Path) -> None:
    stream = io.StringIO()
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.create_run(RUN, "train", {})
        ledger.append_events(RUN, [("log", {"text": "before"})])
        with narrated(ledger, RUN, Progress(stream), poll_s=60):
            ledger.append_events(RUN, [("log", {"text": "inside"})])
    assert stream.getvalue() == "  inside\n"


def test_a_run_that_begins_in_the_block_is_shown_from_its_start(tmp_path: Path) -> None:
    stream = io.StringIO()
    with (
        Ledger(tmp_path / "ledger.sqlite") as ledger,
        narrated(ledger, RUN, Progress(stream), poll_s=60),
    ):
        ledger.create_run(RUN, "train", {})
        ledger.append_events(RUN, [("log", {"text": "first"})])
    assert stream.getvalue() == "  first\n"


def test_a_ledger_that_is_away_does_not_end_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> None:
        raise NotRunningError("away")

    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.create_run(RUN, "train", {})
        with narrated(ledger, RUN, Progress(io.StringIO()), poll_s=60):
            monkeypatch.setattr(ledger, "events", away)
    assert "events are not shown" in caplog.text
