"""Tables of training runs for a person and for programs: metrics, samples, comparisons.

Called by `mulm runs metrics|samples|compare`. Pure. Invariant: text of a model reaches the result
harmless; numbers of JSON and CSV are whole, those of tables rounded.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from jobs.dataset_words import one_line, size_text, table_lines
from jobs.run_words import number_text
from mulm.runs.compare import Comparison
from mulm.runs.curve import STEP, Row, columns
from mulm.terminal_text import harmless

_UNSHOWN = ("eta_s",)
_SIDE_BY_SIDE_LINES = 12


def metric_lines(rows: Sequence[Row]) -> list[str]:
    """A table; what a step has no number for stays empty."""
    names = [name for name in columns(rows) if name not in _UNSHOWN]
    head = [_short(name) for name in names]
    return table_lines([head, *([_cell(name, row.get(name)) for name in names] for row in rows)])


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as CSV with a head."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def sample_lines(samples: Sequence[dict[str, Any]]) -> list[str]:
    """Each prompt, and below it what the model wrote."""
    lines: list[str] = []
    for sample in samples:
        lines.append(f"step {sample.get(STEP)}  > {one_line(str(sample.get('prompt', '')))}")
        text = harmless(str(sample.get("text", "")))
        lines += [f"  {line}".rstrip() for line in text.split("\n")]
    return lines


def comparison_lines(found: Comparison) -> list[str]:
    """The runs, best first; where their configs differ; their curves beside each other."""
    head = ("run", "name", "phase", "steps", "loss", _short(found.judged_by or ""), "tokens/s")
    if found.judged_by in (None, "loss"):
        head = (*head[:5], "", head[6])
    keys = ("run", "name", "phase", "steps", "loss", "validation", "tokens_per_s")
    lines = table_lines([head, *([number_text(run[key]) for key in keys] for run in found.runs)])
    ids = [str(run["run"]) for run in found.runs]
    if found.differences:
        rows = [[key, *map(_value, values)] for key, values in found.differences.items()]
        lines += ["", *table_lines([["config", *ids], *rows])]
    for label, name in (("loss", "loss"), ("validation", found.judged_by)):
        having = [row for row in found.steps if label in row]
        if having:
            rows = [[str(row[STEP]), *map(number_text, row[label])] for row in _spread(having)]
            lines += ["", *table_lines([[_short(str(name)), *ids], *rows])]
    return lines


def _cell(name: str, value: Any) -> str:
    is_size = name.endswith("_bytes") and isinstance(value, int | float)
    return size_text(value) if is_size else number_text(value)


def _spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few rows, evenly from all, the last one among them."""
    n, limit = len(rows), _SIDE_BY_SIDE_LINES
    if n <= limit:
        return list(rows)
    return [rows[(k + 1) * n // limit - 1] for k in range(limit)]


def _short(name: str) -> str:
    return (
        name.removesuffix("_bytes")
        .replace("validation_", "val ")
        .replace("_per_s", "/s")
        .replace("_", " ")
    )


def _value(value: Any) -> str:
    return one_line(str(value), 30)
