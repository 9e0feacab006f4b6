"""The GPU script's logic, on a CPU: which way each card gets, what a line says, what MFU is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_train
from benchmarks.gpu_table import GIB, HEAD, Row, line_of
from benchmarks.gpu_train import Options, attempt, fitting, ways
from mulm.model.presets import preset
from mulm.train.flops import flops_per_token
from mulm.train.memory import USABLE, largest_rows, step_memory

CPU = ["--device", "cpu", "--sizes", "demo", "--seq-len", "32", "--vocab-size", "320"]
CPU += ["--batch-tokens", "128", "--seconds", "0", "--no-compile"]


def options(device: str = "cuda", **changes: Any) -> Options:
    values: dict[str, Any] = {
        "device": device, "seq_len": 2048, "vocab_size": 32768, "batch_tokens": 65536,
        "seconds": 0.0, "dtype": torch.bfloat16, "measured_peak": 1e12, "known_peak": 2e12,
        "is_compiled": False,
    }  # fmt: skip
    return Options(**values | changes)


@pytest.fixture(autouse=True)
def _quick_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_train, "measured_peak_flops", lambda *_: 1e12)


def test_each_card_gets_the_cheapest_way_that_half_fills_it() -> None:
    shape = preset("base", 32768)
    large = fitting(shape, options(), USABLE * 80 * GIB, "muon")
    assert large is not None
    assert (large.optimizer.state_dtype, large.is_checkpointed, large.rows) == ("fp32", False, 8)
    for card_gb in (24, 12, 8):
        room = USABLE * card_gb * GIB
        chosen = fitting(shape, options(), room, "muon")
        if chosen is None:
            continue
        assert step_memory(shape, chosen).peak_bytes <= room
        if chosen.rows < 8:
            assert largest_rows(shape, chosen, room) == chosen.rows
        if chosen.is_checkpointed:
            kept = replace(chosen, is_checkpointed=False)
            assert largest_rows(shape, kept, room) < 4
    assert fitting(preset("wide", 32768), options(), 2 * GIB, "muon") is None


def test_caps_beyond_the_card_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_train, "total_bytes", lambda _: 16.0 * GIB)
    cards = [card for card, _ in ways(preset("micro", 32768), options(), [24, 12, 8])]
    assert cards == [None, None, 12, 8]


def test_the_table_on_a_cpu_says_that_it_is_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gpu_train.main([*CPU, "--cap-gb", "8", "--json", str(tmp_path / "rows.json")])
    told = capsys.readouterr().out.splitlines()
    assert "nothing below is about a GPU" in told[0]
    table = [line for line in told if line.startswith("|")]
    assert table[0] == HEAD
    assert len(table) == 2 + 3
    assert {line.count("|") for line in table} == {HEAD.count("|")}
    assert all("not counted" in line for line in table[2:])
    assert "unknown" in table[2]
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["optimizer"] for row in rows] == ["muon", "adamw", "muon"]
    assert all(row["tokens_per_s"] > 0 and not row["error"] for row in rows)


def test_mfu_is_operations_over_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    small = options("cpu", seq_len=32, vocab_size=320, batch_tokens=128, dtype=torch.float32)
    monkeypatch.setattr(gpu_train, "_timed", lambda step, _: (step(), 0.5)[1])
    shape = preset("demo", 320)
    row = attempt("demo", None, fitting(shape, small, GIB, "muon"), small)
    assert row.tokens_per_s == 128 / 0.5
    assert row.mfu_measured == pytest.approx(256 * flops_per_token(shape, 32) / 1e12)
    assert row.mfu_known == pytest.approx(row.mfu_measured / 2)


def test_a_row_that_fails_is_its_error_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest, is_first = gpu_train.make_step, [True]

    def failing(*arguments: Any) -> Any:
        if is_first:
            is_first.clear()
            raise torch.OutOfMemoryError("CUDA out of memory.\n Tried | to allocate")
        return honest(*arguments)

    monkeypatch.setattr(gpu_train, "make_step", failing)
    gpu_train.main([*CPU, "--cap-gb"])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| demo")]
    assert "OutOfMemoryError: CUDA out of memory. Tried / to allocate" in table[0]
    assert "| adamw |" in table[1]
    assert {line.count("|") for line in table} == {HEAD.count("|")}


def test_nothing_fits_is_a_line_too() -> None:
    line = line_of(attempt("wide", 8, None, options()))
    assert "the plan says that nothing fits" in line
    assert line.count("|") == HEAD.count("|")
    assert line_of(Row("a", None)).count("|") == HEAD.count("|")


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no usable GPU is here"):
        gpu_train.main([])
