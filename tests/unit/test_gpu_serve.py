"""The GPU script of serving, on a CPU: each row is measured or says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_serve
from benchmarks.gpu_serve import attempt, main, prompt_flops
from benchmarks.gpu_serve_table import HEAD, Row, WithGraphs, line_of
from mulm.model.presets import preset

CPU = ["--device", "cpu", "--size", "demo", "--vocab-size", "320", "--prompt", "8", "--new", "4"]
CPU += ["--prefill", "16", "--batches", "1", "2"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_serve, "measured_peak_flops", lambda *_: 1e12)
    monkeypatch.setattr(gpu_serve, "bandwidth", lambda *_: 1e9)
    monkeypatch.setattr(gpu_serve, "_ROUNDS", 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)


def test_a_run_on_a_cpu_fills_every_row_and_says_what_it_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*CPU, "--json", str(tmp_path / "a.json")])
    printed = capsys.readouterr().out
    assert "nothing about a GPU" in printed
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["error"] for row in rows] == [""] * len(rows)
    assert [(row["what"], row["batch"]) for row in rows[:4]] == [
        ("mulm", 1), ("mulm", 2), ("mulm int8", 1), ("mulm int4", 1),
    ]  # fmt: skip
    for row in rows:
        assert row["tokens_per_s"] == pytest.approx(row["batch"] / row["step_s"]) or row["of_peak"]
        assert row["peak_bytes"] is None
        graphs = row["graphs"]
        assert graphs["problem"] == ""
        assert graphs["n_bytes"] > 0
        assert (
            graphs["tokens_per_s"] == pytest.approx(row["batch"] / graphs["step_s"])
            or (row["of_peak"])
        )
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {HEAD.count("|")}


def test_a_row_that_fails_is_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Row:
        raise RuntimeError("out of | memory")

    options = gpu_serve._options(gpu_serve._parse(CPU))
    row = attempt("mulm", 8, options, fail)
    assert row.error == "RuntimeError: out of / memory"
    assert line_of(row).count("|") == HEAD.count("|")


def test_graphs_that_are_not_there_are_no_number() -> None:
    row = Row("a", 1, 10.0, 0.1, 0.5, None, WithGraphs(problem="off by | 2"))
    assert "| none: off by / 2 | | | |" in line_of(row)
    assert line_of(row).count("|") == HEAD.count("|")
    theirs = line_of(Row("transformers", 1, 10.0, 0.1))
    assert theirs.count("|") == HEAD.count("|")
    ours = line_of(Row("a", 1, 10.0, 0.1, 0.5, None, WithGraphs(20.0, 0.05, 1.0, 3 << 20)))
    assert ours == "| a | 1 | 10 | 100.00 | 50.0% |  | 20 | 50.00 | 100.0% | 3 | not counted |"


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="nothing is measured"):
        main([])


def test_operations_of_a_prompt() -> None:
    """2 for each weight and token, 4 for each pair of tokens and number; logits of one row."""
    shape = preset("demo", 320)
    per_block = sum(rows * columns for rows, columns in shape.block_matrices)
    n = 16
    expected = 2 * n * shape.n_layers * per_block
    expected += 4 * n * n * shape.n_layers * shape.n_heads * shape.d_head
    expected += 2 * 320 * shape.d_model
    assert prompt_flops(shape, n) == expected
