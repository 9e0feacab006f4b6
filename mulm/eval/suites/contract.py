"""The contract suite of suites: what anybody's suite must keep, checked on rows of one's own.

Called by tests, ours and strangers': `assert violations(MySuite(), rows) == []`. Needs no torch.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from mulm.eval.suites.base import (
    Continuation,
    GenerationSuite,
    Likelihood,
    LikelihoodSuite,
    Row,
    Suite,
)

_UNLIKELY, _LIKELY = Likelihood(-1e6, False), Likelihood(-1.0, True)


def violations(suite: Suite, rows: Sequence[Row]) -> list[str]:
    """What a suite does against the contract, in words; an empty list if nothing.

    Args:
        suite: The suite.
        rows: A few good ones, as they stand in its files.
    """
    return [*_of_words(suite), *(said for row in rows for said in _of_row(suite, row))]


def _of_words(suite: Suite) -> Iterator[str]:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", suite.name):
        yield f"{suite.name!r} is no name: small letters, digits and _"
    names = [metric.name for metric in suite.metrics]
    if not names or len(set(names)) < len(names):
        yield "`metrics` is empty, or has a name twice"
    if not suite.columns:
        yield "`columns` is empty: a file of anything would pass for one of the suite"
    if not suite.hub.startswith("hf://datasets/"):
        yield "`hub` is no hf://datasets/ URL"


def _of_row(suite: Suite, row: Row) -> Iterator[str]:
    before = copy.deepcopy(dict(row))
    for column, types in suite.columns.items():
        if not isinstance(row.get(column), types):
            yield f"a row has nothing of the right type in column {column!r}"
            return
    if suite.group(row) != suite.group(row) or not isinstance(suite.group(row), str):
        yield "`group` is no text, or not the same twice"
    if isinstance(suite, LikelihoodSuite):
        yield from _of_questions(suite, row)
    elif isinstance(suite, GenerationSuite):
        yield from _of_prompt(suite, row)
    else:
        yield "is neither a LikelihoodSuite nor a GenerationSuite"
    if dict(row) != before:
        yield "changes a row"


def _of_questions(suite: LikelihoodSuite, row: Row) -> Iterator[str]:
    asked = list(suite.questions(row))
    if asked != list(suite.questions(row)):
        yield "`questions` is not the same twice"
    if not asked or not all(isinstance(q, Continuation) and q.text for q in asked):
        yield "`questions` gives none, or one without a text"
        return
    judged = []
    for favourite in range(len(asked)):
        answers = [_LIKELY if n == favourite else _UNLIKELY for n in range(len(asked))]
        judged.append(suite.measure(row, answers))
    judged.append(suite.measure(row, [_UNLIKELY] * len(asked)))
    yield from (said for values in judged for said in _of_values(suite, values))
    for metric in suite.metrics:
        found = {values.get(metric.name) for values in judged}
        if metric.kind == "share" and not {0.0, 1.0} <= found:
            yield f"no likelihoods make {metric.name!r} both right and wrong"


def _of_prompt(suite: GenerationSuite, row: Row) -> Iterator[str]:
    alone, shown = suite.prompt(row, []), suite.prompt(row, [row])
    if alone != suite.prompt(row, []):
        yield "`prompt` is not the same twice"
    if not alone.text or alone.max_tokens < 1:
        yield "`prompt` is empty, or leaves no room for an answer"
    if suite.n_shots and not (shown.text.endswith(alone.text) and shown.text != alone.text):
        yield "worked examples do not stand before the question"
    judged = suite.measure(row, "")
    yield from _of_values(suite, judged)
    if any(judged.get(metric.name) for metric in suite.metrics if metric.kind == "share"):
        yield "saying nothing is right"


def _of_values(suite: Suite, values: Mapping[str, float]) -> Iterator[str]:
    if set(values) != {metric.name for metric in suite.metrics}:
        yield f"`measure` gives {sorted(values)}, not the metrics"
        return
    for metric in suite.metrics:
        value = values[metric.name]
        if not math.isfinite(value):
            yield f"{metric.name!r} is {value}"
        elif metric.kind == "share" and value not in (0.0, 1.0):
            yield f"{metric.name!r} is {value}: neither 0 nor 1"
