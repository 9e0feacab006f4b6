"""What the items of a suite gave, as the scores that a run's result has.

Called by `mulm.eval.scoring`. Invariant: a pure function: the same values give the same scores,
errors and intervals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from mulm.eval.intervals import bootstrap_perplexity, perplexity, standard_error, wilson
from mulm.eval.suites.base import Metric, Row, Suite

Values = Sequence[Mapping[str, float]]

_SEED = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What each row gave, and how many questions lost their beginning to the window."""

    rows: Sequence[Row]
    values: Values
    n_cut: int


def summary(suite: Suite, measured: Measured) -> dict[str, Any]:
    """Scores of the whole with their errors, and where a suite has groups, of each."""
    result: dict[str, Any] = {
        "n": len(measured.rows),
        "metrics": {metric.name: _scored(metric, measured.values) for metric in suite.metrics},
        "cut": measured.n_cut,
    }
    values_by_group: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for row, value in zip(measured.rows, measured.values, strict=True):
        values_by_group[suite.group(row)].append(value)
    if set(values_by_group) == {""}:
        return result
    groups = {name: _means(suite, values) for name, values in sorted(values_by_group.items())}
    means = {m.name: fmean(g[m.name] for g in groups.values()) for m in suite.metrics}
    return result | {"mean_of_groups": means, "groups": groups}


def _scored(metric: Metric, values: Values) -> dict[str, Any]:
    of_items = [value[metric.name] for value in values]
    if metric.kind == "share":
        error, interval = standard_error(of_items), wilson(sum(of_items), len(of_items))
    else:
        error, interval = bootstrap_perplexity(of_items, torch.Generator().manual_seed(_SEED))
    score = _mean(metric, values)
    return {"score": score, "standard_error": error, "interval": list(interval)}


def _means(suite: Suite, values: Values) -> dict[str, float]:
    return {"n": len(values), **{metric.name: _mean(metric, values) for metric in suite.metrics}}


def _mean(metric: Metric, values: Values) -> float:
    of_items = [value[metric.name] for value in values]
    return fmean(of_items) if metric.kind == "share" else perplexity(of_items)
