"""Training runs side by side: where their configs differ, and how their curves do.

Called by `mulm runs compare`. Pure. Invariant: numbers stand beside each other only where all runs
have one for that step; where a number is missing in a run, its last place is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mulm.records import Run
from mulm.runs.curve import STEP, Row, newest
from mulm.runs.kinds import name_of

_VALIDATION = "validation_"
_MISSING = "(absent)"


@dataclass(frozen=True, slots=True)
class Contender:
    """A run and its curve."""

    run: Run
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs, the best one first; all lists are in their order."""

    judged_by: str | None
    """The number that decides, smaller is better; None where the runs share none."""
    runs: list[dict[str, Any]]
    differences: dict[str, list[Any]]
    """Dotted keys of the configs whose values are not all the same."""
    steps: list[dict[str, Any]]
    """Each {"step": 10, "loss": [...], "validation": [...]}; only steps that all runs have."""


def compare(contenders: Sequence[Contender]) -> Comparison:
    """Compare two runs or more."""
    judged_by = _judged_by(contenders)
    ranked = sorted(contenders, key=lambda c: _rank(c, judged_by))
    return Comparison(
        judged_by=judged_by,
        runs=[_numbers(contender, judged_by) for contender in ranked],
        differences=differences([contender.run.config for contender in ranked]),
        steps=_side_by_side(ranked, judged_by),
    )


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Dotted keys whose values are not the same in all configs, with the values."""
    flat = [flattened(config) for config in configs]
    keys = dict.fromkeys(key for values in flat for key in values)
    found = {key: [values.get(key, _MISSING) for values in flat] for key in keys}
    return {key: values for key, values in found.items() if any(v != values[0] for v in values)}


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _judged_by(contenders: Sequence[Contender]) -> str | None:
    """What the runs say that they are judged by, else what all were measured by."""
    said = {name for c in contenders for name in c.run.result or {} if name.startswith(_VALIDATION)}
    measured = [set(newest(contender.rows)) for contender in contenders]
    common = set.intersection(*measured) if measured else set()
    in_order = [name for name in newest(contenders[0].rows) if name in common]
    for wanted in (said, {name for name in in_order if name.startswith(_VALIDATION)}, {"loss"}):
        for name in in_order:
            if name in wanted:
                return name
    return None


def _rank(contender: Contender, judged_by: str | None) -> float:
    value = newest(contender.rows).get(judged_by or "")
    return float("inf") if value is None else float(value)


def _numbers(contender: Contender, judged_by: str | None) -> dict[str, Any]:
    run, last = contender.run, newest(contender.rows)
    return {
        "run": run.id,
        "name": name_of(run),
        "phase": run.phase,
        "steps": last.get(STEP, 0),
        "loss": last.get("loss"),
        "validation": last.get(judged_by) if judged_by and judged_by != "loss" else None,
        "tokens_per_s": _speed(contender),
        "model": (run.result or {}).get("model"),
    }


def _speed(contender: Contender) -> float | None:
    """What the run says, else the middle one of what its steps say."""
    said = (contender.run.result or {}).get("tokens_per_s")
    speeds = sorted(row["tokens_per_s"] for row in contender.rows if row.get("tokens_per_s"))
    return said or (speeds[len(speeds) // 2] if speeds else None)


def _side_by_side(ranked: Sequence[Contender], judged_by: str | None) -> list[dict[str, Any]]:
    by_step = [{row[STEP]: row for row in contender.rows} for contender in ranked]
    common = set.intersection(*(set(rows) for rows in by_step)) if by_step else set()
    table = []
    for step in sorted(common):
        told: dict[str, Any] = {STEP: step}
        for label, name in (("loss", "loss"), ("validation", judged_by)):
            values = [rows[step].get(name or "") for rows in by_step]
            if name and (label == "loss" or name != "loss") and None not in values:
                told[label] = values
        if len(told) > 1:
            table.append(told)
    return table
