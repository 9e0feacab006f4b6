from __future__ import annotations

from typing import Any

from jobs.run_tables import comparison_lines, csv_text, metric_lines, sample_lines
from mulm.records import Event, Run
from mulm.runs.compare import Contender, compare
from mulm.runs.samples import newest_samples

ROWS: list[dict[str, Any]] = [
    {"step": 10, "loss": 3.25, "lr": 0.02, "tokens_per_s": 12345.6, "eta_s": 9.0},
    {"step": 20, "loss": 2.0, "lr": None, "validation_bits_per_byte": 1.98765, "mfu": 0.41},
]


def test_a_table_has_what_is_there() -> None:
    assert metric_lines(ROWS) == [
        "step  loss  lr    tokens/s  val bits per byte  mfu",
        "  10  3.25  0.02    12,346",
        "  20     2                              1.988  0.41",
    ]


def test_sizes_are_read_as_sizes() -> None:
    assert metric_lines([{"step": 1, "memory_bytes": 2_500_000_000}]) == [
        "step  memory", "   1  2.5 GB",
    ]  # fmt: skip


def test_csv_has_all_columns_and_empty_cells() -> None:
    assert csv_text(ROWS).splitlines() == [
        "step,loss,lr,tokens_per_s,validation_bits_per_byte,mfu,eta_s",
        "10,3.25,0.02,12345.6,,,9.0",
        "20,2.0,,,1.98765,0.41,",
    ]


def samples(*told: tuple[int, str, str]) -> list[Event]:
    return [
        Event("run_a", n, 0.0, "sample", {"step": step, "prompt": prompt, "text": text})
        for n, (step, prompt, text) in enumerate(told)
    ]


def test_samples_are_told_by_step_and_change_no_terminal() -> None:
    events = samples(
        (100, "Once", "upon\na \x1b[31mtime"),
        (200, "Once", "old"),
        (200, "The \x07king", "said\x9b2J"),
        (200, "Once", "done again"),
    )
    assert [s["text"] for s in newest_samples(events, 1)] == ["done again", "said\x9b2J"]
    assert len(newest_samples(events, None)) == 3
    assert newest_samples([], 3) == []
    lines = sample_lines(newest_samples(events, None))
    assert lines[:3] == ["step 100  > Once", "  upon", "  a ␛[31mtime"]
    assert lines[5:] == ["step 200  > The ␇king", "  said\\u{9b}2J"]


def contender(run_id: str, n: int, validation: float, **config: Any) -> Contender:
    rows: list[dict[str, Any]] = [
        {"step": step, "loss": 1.0 + validation / step} for step in range(1, n + 1)
    ]
    rows[-1]["validation_bits_per_byte"] = validation
    return Contender(Run(run_id, "train", config, "succeeded", 0.0, 0.0), rows)


def test_a_comparison_puts_the_best_first_and_few_steps_below() -> None:
    found = compare(
        [contender("run_a", 100, 2.0, seed=1), contender("run_b", 100, 1.5, seed=2, extra="\x1b")]
    )
    lines = comparison_lines(found)
    assert lines[0].split() == [
        "run", "name", "phase", "steps", "loss", "val", "bits", "per", "byte", "tokens/s",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[1:3]] == ["run_b", "run_a"]
    at = lines.index("") + 1
    assert [line.split() for line in lines[at : at + 3]] == [
        ["config", "run_b", "run_a"], ["seed", "2", "1"], ["extra", "␛", "(absent)"],
    ]  # fmt: skip
    curve = lines[lines.index("", at) + 1 :]
    assert curve[0].split() == ["loss", "run_b", "run_a"]
    steps = [int(line.split()[0]) for line in curve[1 : curve.index("")]]
    assert len(steps) == 12
    assert steps[-1] == 100
    assert curve[-1].split() == ["100", "1.5", "2"]


def test_runs_that_share_nothing_are_still_told() -> None:
    empty = Contender(Run("run_c", "train", {}, "failed", 0.0, 0.0), [])
    lines = comparison_lines(compare([empty, contender("run_a", 1, 1.0)]))
    assert any("run_c" in line for line in lines)
