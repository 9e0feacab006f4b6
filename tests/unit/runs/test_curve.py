from __future__ import annotations

import math
from typing import Any

from mulm.records import Event
from mulm.runs.curve import columns, curve, newest, thinned


def events(*metrics: dict[str, Any]) -> list[Event]:
    told = [Event("run_a", n, 0.0, "metric", data) for n, data in enumerate(metrics, start=1)]
    return [Event("run_a", 99, 0.0, "log", {"step": 5, "text": "x"}), *told]


def test_numbers_of_a_step_are_one_row_and_the_last_ones_count() -> None:
    rows = curve(
        events(
            {"step": 10, "loss": 3.0, "eta_s": 5.0},
            {"step": 20, "loss": 2.5},
            {"step": 20, "validation_bits_per_byte": 2.0},
            {"step": 10, "loss": 3.5},  # done again after a crash
            {"step": 30, "loss": 2.0, "mfu": 0.4, "memory_bytes": 10},
        )
    )
    assert rows == [
        {"step": 10, "loss": 3.5, "eta_s": 5.0},
        {"step": 20, "loss": 2.5, "validation_bits_per_byte": 2.0},
        {"step": 30, "loss": 2.0, "mfu": 0.4, "memory_bytes": 10},
    ]
    assert columns(rows) == [
        "step", "loss", "validation_bits_per_byte", "mfu", "memory_bytes", "eta_s",
    ]  # fmt: skip
    assert newest(rows) == {
        "step": 30, "loss": 2.0, "mfu": 0.4, "memory_bytes": 10, "eta_s": 5.0,
        "validation_bits_per_byte": 2.0,
    }  # fmt: skip


def test_what_json_has_no_word_for_is_missing() -> None:
    assert curve(events({"step": 1, "loss": math.inf, "lr": math.nan})) == [
        {"step": 1, "loss": None, "lr": None}
    ]


def test_thinning_keeps_the_newest() -> None:
    rows = [{"step": step} for step in range(5, 48, 5)]
    assert [row["step"] for row in thinned(rows, every=20)] == [20, 40, 45]
    assert [row["step"] for row in thinned(rows, last=2)] == [40, 45]
    assert [row["step"] for row in thinned(rows, every=20, last=2)] == [40, 45]
    assert thinned(rows) == rows
    assert thinned(rows, last=99) == rows
    assert thinned([], every=3, last=1) == []
    assert columns([]) == []
