from __future__ import annotations

import re
from typing import Any

from jobs.run_words import description_lines, event_lines, listing_lines, progress_text
from mulm.records import Event

ROW: dict[str, Any] = {
    "run": "run_a",
    "kind": "train",
    "name": "demo\x1b[2J",
    "phase": "running",
    "is_living": True,
    "progress": {
        "stage": "train", "done": 120, "total": 450, "unit": "steps", "rate_per_s": 3.4561,
        "eta_s": 95.4,
    },
    "error": None,
    "created_s": 1000.0,
    "updated_s": 1500.0,
}  # fmt: skip


def test_a_run_that_works_tells_speed_and_time() -> None:
    assert listing_lines([ROW], 8200.0)[1].split("  ") == [
        "run_a", "train", "demo␛[2J", "running",
        "train 120/450 steps, 3.46 steps/s, 95 s left", "2 h",
    ]  # fmt: skip
    ended = ROW | {"phase": "paused", "is_living": False}
    assert "train 120/450 steps  2 h" in listing_lines([ended], 8200.0)[1]
    assert listing_lines([], 0.0) == []


def test_progress_in_all_its_forms() -> None:
    assert progress_text({"stage": "read", "done": 3}, is_live=True) == "read 3"
    told = {"stage": "train", "done": 1, "total": 2, "eta_s": 7201.0}
    assert progress_text(told, is_live=True) == "train 1/2, 2.0 h left"
    assert progress_text(told | {"eta_s": 600}, is_live=True) == "train 1/2, 10 min left"
    assert progress_text({}, is_live=False) == "0"


def test_a_page_has_all_that_is_known_and_nothing_that_is_not() -> None:
    run = ROW | {
        "phase": "failed",
        "error": {"code": "no_space", "message": "full \x1b", "hint": "free some"},
        "result": None,
        "choice": {"reason": "islands on a, b", "warnings": ["c does not pay: it is slow"]},
        "metrics": {"step": 120, "loss": 2.34567, "tokens_per_s": 7070.1},
        "checkpoints": [{"step": 75, "is_best": True}, {"step": 100, "is_best": False}],
        "parents": {"dataset": {"ref": "sample@1", "id": None}},
        "made_by": {"job": "raysubmit_x", "pid": 1, "command": "train.py --config c"},
        "last_process": {"job": "", "pid": 2, "command": "mulm runs resume demo"},
        "job": None,
        "folder": "/home/me/runs/run_a",
        "config": {"name": "demo", "optimizer": {"kind": "muon"}, "teacher": None},
    }
    assert description_lines(run, 8200.0) == [
        "run_a  train demo␛[2J",
        "phase       failed, its process still ends",
        "error       [no_space] full ␛",
        "hint        free some",
        "progress    train 120/450 steps, 3.46 steps/s, 95 s left",
        "numbers     step 120, loss 2.346, tokens_per_s 7,070",
        "trains by   islands on a, b",
        "warning     c does not pay: it is slow",
        "checkpoints 75 (best), 100",
        "reads       dataset sample@1 (gone)",
        "made by     Ray job raysubmit_x: train.py --config c",
        "goes on by  process 2: mulm runs resume demo",
        "began       2 h ago, in /home/me/runs/run_a",
        "config      name: demo",
        "config      optimizer.kind: muon",
    ]


def test_every_event_is_a_line() -> None:
    told = [
        ("log", {"text": "two\nlines \x1b[0m"}),
        ("phase", {"phase": "failed", "error": {"code": "no_space", "message": "full"}}),
        ("phase", {"phase": "running"}),
        ("checkpoint", {"step": 10, "is_best": True}),
        ("checkpoint", {"step": 20}),
        ("resumed", {"step": 10}),
        ("stage", {"name": "tokenizer", "seconds": 1.1, "text": "4096 tokens"}),
        ("started", {"pid": 7, "command": "mulm train x"}),
        ("novelty", {"a": 1, "b": "x"}),
    ]
    lines = [
        line
        for n, (kind, data) in enumerate(told)
        for line in event_lines(Event("run_a", n, 1e9 + n, kind, data))
    ]
    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in lines)
    assert [line[10:] for line in lines] == [
        "two lines ␛[0m", "failed: [no_space] full", "running",
        "checkpoint of step 10, the best", "checkpoint of step 20", "goes on from step 10",
        "tokenizer 1.1 s 4096 tokens", "process 7 begins: mulm train x", "novelty a=1 b=x",
    ]  # fmt: skip
